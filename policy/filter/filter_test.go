package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// TestCases follows the packets of all cases whose outcome is known, on each node.
func TestCases(t *testing.T) {
	pods := map[string]*store.Pod{}
	for _, p := range policytest.Pods() {
		pods[p.Name.String()] = p
	}
	cases := policytest.Cases()
	if testing.Short() {
		cases = slices.DeleteFunc(cases, func(c policytest.Case) bool { return hash32(0, c.Name)%10 != 0 })
	}
	for _, c := range cases {
		nodes := map[string]*tracer{}
		filters := map[string]*Filter{}
		for _, node := range []string{"node1", "node2", "node3"} {
			f := New(Config{})
			f.Apply(c.Changes())
			var locals []Local
			for _, p := range pods {
				if p.Node == node {
					locals = append(locals, Local{Key: p.Key(), Addrs: p.Addrs})
				}
			}
			f.SetLocal(locals)
			nodes[node], filters[node] = newTracer(t), f
			nodes[node].apply(f.Plan(), func() {})
		}
		for _, check := range c.Checks() {
			src, dst := pods[check.Src], pods[check.Dst]
			for i := range src.Addrs {
				if !c.Family.Has(src.Addrs[i]) {
					continue
				}
				flow := policy.Flow{Src: src.Addrs[i], Dst: dst.Addrs[i]}
				flow.Protocol, flow.Port = check.Service.For(flow.Dst)
				out, _ := nodes[src.Node].passes(gate.ChainForward, packetOf(flow))
				in, _ := nodes[dst.Node].passes(gate.ChainForward, packetOf(flow))
				if out && in != check.Allowed {
					t.Errorf("%s: %s (%v): leaves: %v, arrives: %v", c.Name, check, flow, out, in)
				}
				allowed := filters[src.Node].Allows(Flow{Flow: flow}).Allowed() && filters[dst.Node].Allows(Flow{Flow: flow}).Allowed()
				if allowed != check.Allowed {
					t.Errorf("%s: %s (%v): Allows says %v", c.Name, check, flow, allowed)
				}
			}
		}
	}
}

// started writes all that small says.
func startSmall(t *testing.T) (*Filter, *tracer) {
	f, w := small(), newTracer(t)
	w.apply(f.Plan(), func() {})
	if p := f.Plan(); !p.Empty() || p.Changed {
		t.Fatalf("a second plan without changes: %+v", p)
	}
	return f, w
}

func flow(src, dst string, protocol store.Protocol, port uint16) policy.Flow {
	return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: protocol, Port: port}
}

// TestRemotePod: what happens to a pod of another node costs at most two elements of each family, and no table.
func TestRemotePod(t *testing.T) {
	f, w := startSmall(t)
	second := testPod("four", "second", "client", "10.1.2.3", "fd00:1:2::3")
	third := testPod("four", "third", "stranger", "10.1.2.4")
	w.apply(planOf(f, second, testPod("four", "keeper", "client", "fd00:1:2::77")), func() {}) // whose class stays
	relabelled, back := *second, *second
	relabelled.Labels = map[string]string{"app": "stranger"}
	moved := back
	moved.Addrs = []netip.Addr{netip.MustParseAddr("10.1.2.9"), netip.MustParseAddr("fd00:1:2::9")}
	unready := moved
	unready.Ready = !unready.Ready
	for _, step := range []struct {
		name   string
		pod    *store.Pod
		writes int
		change bool
	}{
		{"a pod in which nobody is interested", third, 0, false},
		{"labels that are another class", &relabelled, 2, true},
		{"back", &back, 2, true},
		{"other addresses", &moved, 4, true},
		{"not ready", &unready, 0, false},
	} {
		w.writes = 0
		p := planOf(f, step.pod)
		w.apply(p, func() {})
		if p.Table != nil || w.writes > step.writes || p.Changed != step.change || p.Pressing != step.change {
			t.Errorf("%s: %d elements, a table: %v, changed: %v", step.name, w.writes, p.Table != nil, p.Changed)
		}
	}
}

// TestOnlyPod: the first pod with its labels needs a pair for each subject that knows them. When it is another pod's turn, that is there already.
func TestOnlyPod(t *testing.T) {
	f, w := startSmall(t)
	client, idle := testPod("four", "client", "client", "10.1.2.2"), testPod("four", "client", "idle", "10.1.2.2")
	w.apply(planOf(f, idle), func() {})
	for range 3 {
		for _, p := range []*store.Pod{client, idle} {
			w.writes = 0
			if w.apply(planOf(f, p), func() {}); w.writes > 1 { // class 0 has no element
				t.Errorf("labels %v: %d elements", p.Labels, w.writes)
			}
		}
	}
	for i := range idleMost + 10 {
		p := webPolicy()
		p.Name.Name, p.Ingress[0].Peers[0].Pods = fmt.Sprint("policy", i), selector("app", fmt.Sprint("app", i))
		f.Apply(store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{p.Name: p}})
	}
	w.apply(f.Plan(), func() {})
	for i := range idleMost + 10 {
		w.apply(planOf(f, testPod("four", "client", fmt.Sprint("app", i), "10.1.2.2")), func() {})
	}
	if n := f.Stats().Classes; n > idleMost+3 { // the pod's, and those of networks
		t.Errorf("%d classes are kept", n)
	}
	f.Apply(store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{webPolicy().Name: nil}})
	f.SetLocal(nil)
	for p := f.Plan(); !p.Empty(); p = f.Plan() {
		w.apply(p, func() {})
	}
	if s := f.Stats(); s.Classes+s.Pairs+s.Ports > 0 {
		t.Errorf("what nobody asks about is still there: %+v", s)
	}
}

func planOf(f *Filter, pods ...*store.Pod) Plan {
	f.Apply(podChanges(pods...))
	return f.Plan()
}

// TestClosedUntilKnown: a pod's address is closed until its own labels are known.
func TestClosedUntilKnown(t *testing.T) {
	f, w := startSmall(t)
	late := testPod("dual", "late", "web", "10.1.1.9")
	attached := Local{Key: late.Key(), UID: late.UID, Addrs: late.Addrs}
	both := append(localsOf(f.pods[store.PodKey{Node: "dual", Name: store.ObjectName{Namespace: "shop", Name: "web"}}].object), attached)
	allowed := flow("10.1.2.2", "10.1.1.9", store.TCP, 80)
	expect := func(when string, want Side, enforced bool) {
		t.Helper()
		for p := f.Plan(); !p.Empty(); p = f.Plan() {
			w.apply(p, func() {})
		}
		if have := f.Allows(Flow{Flow: allowed}); have != (Answer{Ingress: want}) {
			t.Errorf("%s: %+v", when, have)
		}
		if passes, _ := w.passes(gate.ChainForward, packetOf(allowed)); passes != (want == Open) {
			t.Errorf("%s: the rules let it pass: %v", when, passes)
		}
		if have := f.Enforced(late.Key(), late.UID); have != enforced {
			t.Errorf("%s: enforced: %v", when, have)
		}
	}
	expect("nobody's", Unknown, false)
	f.SetLocal(both)
	expect("attached, its labels unknown", Unknown, false)
	former := *late
	former.UID, former.Labels = "former", nil
	f.Apply(podChanges(&former))
	expect("the datastore tells of its predecessor", Unknown, false)
	silent := *late
	silent.Addrs = nil
	f.Apply(podChanges(&silent))
	expect("the datastore knows its labels, and no address", Open, true)
	f.SetLocal(append(both, Local{Key: store.PodKey{Node: "dual", Name: store.ObjectName{Namespace: "shop", Name: "other"}}, Addrs: late.Addrs}))
	expect("two have the address", Unknown, true)
	f.SetLocal(both)
	expect("one has it", Open, true)
	f.Apply(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{late.Key(): nil}})
	expect("it has ended", Unknown, false)
	f.Apply(podChanges(late))
	expect("back", Open, true)
	f.SetLocal(nil)
	expect("detached", Unknown, false)
}

// TestFixedRules walks through what all pods share.
func TestFixedRules(t *testing.T) {
	_, w := startSmall(t)
	refused := packetOf(flow("10.1.2.2", "10.1.1.2", store.TCP, 81))
	for _, c := range []struct {
		name, chain string
		edit        func(*packet)
		passes      bool
		reason      string
	}{
		{"a new connection that no policy allows", "forward", func(*packet) {}, false, "refuse-ingress"},
		{"the same, once established", "forward", func(p *packet) { p.state = 2 }, true, ""},
		{"an ICMP error about it", "forward", func(p *packet) { p.state = 4 }, true, ""},
		{"established and cut", "forward", func(p *packet) { p.state, p.mark = 2, 1<<20|1 }, false, "refuse-cut"},
		{"a port that is allowed", "forward", func(p *packet) { p.port = 80 }, true, ""},
		{"a range that is allowed to others", "forward", func(p *packet) { p.protocol, p.port = 17, 8500 }, false, "refuse-ingress"},
		{"the range", "forward", func(p *packet) { p.src, p.protocol, p.port = netip.MustParseAddr("192.0.2.1"), 17, 8500 }, true, ""},
		{"from an exception", "forward", func(p *packet) { p.src, p.protocol, p.port = netip.MustParseAddr("192.0.2.65"), 17, 8500 }, false, "refuse-ingress"},
		{"to itself", "forward", func(p *packet) { p.src = p.dst }, true, ""},
		{"from an address that nobody has", "forward", func(p *packet) { p.src = netip.MustParseAddr("10.1.1.77") }, false, "refuse-unknown"},
		{"to one", "forward", func(p *packet) { p.dst = netip.MustParseAddr("10.1.1.77") }, false, "refuse-unknown"},
		{"from an address of somewhere else", "forward", func(p *packet) { p.src, p.port = netip.MustParseAddr("203.0.113.9"), 80 }, false, "refuse-ingress"},
		{"from an address of somewhere else, by the bridge", "forward", func(p *packet) { p.src, p.iif = netip.MustParseAddr("203.0.113.9"), "cni0" }, false, "refuse-unknown"},
		{"to the node, from an address of somewhere else", "input", func(p *packet) { p.src = netip.MustParseAddr("203.0.113.9") }, true, ""},
		{"the same by the bridge", "input", func(p *packet) { p.src, p.iif = netip.MustParseAddr("203.0.113.9"), "cni0" }, false, "refuse-unknown"},
		{"by a link's own address", "forward", func(p *packet) {
			p.src, p.dst, p.iif = netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2"), "cni0"
		}, false, "refuse-unknown"},
		{"a pod by the bridge", "forward", func(p *packet) { p.src, p.dst, p.port, p.iif = p.dst, p.src, 26, "cni0" }, true, ""},
		{"by way of the node", "forward", func(p *packet) { p.dst = netip.MustParseAddr("198.51.100.1") }, true, ""},
		{"egress that is denied", "forward", func(p *packet) { p.src, p.dst, p.port = p.dst, p.src, 25 }, false, "refuse-egress"},
		{"to the node, denied", "input", func(p *packet) { p.src, p.dst, p.port = p.dst, p.src, 25 }, false, "refuse-egress"},
		{"to the node", "input", func(p *packet) { p.src, p.dst, p.port = p.dst, p.src, 26 }, true, ""},
		{"the node to itself, by the bridge's address", "input", func(p *packet) { p.src, p.iif = netip.MustParseAddr("10.1.1.1"), "lo" }, true, ""},
		{"neighbour discovery", "input", func(p *packet) {
			p.src, p.dst, p.protocol, p.icmpType = netip.MustParseAddr("fd00:1:1::99"), netip.MustParseAddr("fd00:1:1::1"), 58, 135
		}, true, ""},
		{"an echo request of the same", "input", func(p *packet) {
			p.src, p.dst, p.protocol, p.icmpType = netip.MustParseAddr("fd00:1:1::99"), netip.MustParseAddr("fd00:1:1::1"), 58, 128
		}, false, "refuse-unknown"},
	} {
		p := refused
		c.edit(&p)
		if passes, reason := w.passes(c.chain, p); passes != c.passes || reason != c.reason {
			t.Errorf("%s: passes: %v (%s)", c.name, passes, reason)
		}
	}
}

// TestReset: what a reset does not tell is gone.
func TestReset(t *testing.T) {
	f, w := startSmall(t)
	f.Apply(store.PolicyChanges{Reset: true})
	for p := f.Plan(); !p.Empty(); p = f.Plan() {
		w.apply(p, func() {})
	}
	f.SetLocal(nil)
	if d := cmp.Diff(text(gate.Closed(testConfig)), text(w.table)); d != "" {
		t.Errorf("the table is not as at first: %s", d)
	}
	for name, set := range w.bulk {
		if len(set) > 0 {
			t.Errorf("set %s has still %d elements", name, len(set))
		}
	}
	if d := cmp.Diff(Stats{}, f.Stats()); d != "" {
		t.Errorf("something is left: %s", d)
	}
}

// What somebody has made of the networks' sets keeps nobody from writing them anew.
func TestNetworksOfAnotherShape(t *testing.T) {
	s := newScene(t, 1, hash32)
	s.run(1)
	l := s.tracer.list()
	l.networks = nil
	addr, number := kernel.Datum{Addr: netip.MustParseAddr("192.0.2.1")}, kernel.Datum{Number: 7}
	l.AddNetworks([]kernel.Element{
		{Key: []kernel.Datum{addr}},
		{Key: []kernel.Datum{number}, Value: []kernel.Datum{number}},
		{Key: []kernel.Datum{addr, number}, Value: []kernel.Datum{number}},
		{Value: []kernel.Datum{number}},
	})
	s.filter = s.restarted(hash32)
	s.tracer.apply(s.filter.Compare(l), func() {})
	s.check(s.flows())
}
