package filter

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/twill-cni/twill/store"
)

// large is a cluster of 10,000 pods in 100 namespaces with 1,000 policies, on a node with 100 pods of all namespaces.
func large() (store.PolicyChanges, []Local) {
	const namespaces, pods, policies, nodes = 100, 10_000, 1_000, 100
	c := store.PolicyChanges{
		Reset: true, Policies: map[store.ObjectName]*store.NetworkPolicy{}, Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{},
	}
	for i := range namespaces {
		name := fmt.Sprintf("ns%d", i)
		c.Namespaces[name] = &store.Namespace{Name: name, Labels: map[string]string{store.NamespaceNameLabel: name, "team": fmt.Sprint(i % 10)}}
	}
	var locals []Local
	for i := range pods {
		node, n := i%nodes, i/nodes
		p := &store.Pod{
			Name: store.ObjectName{Namespace: fmt.Sprintf("ns%d", (node+n)%namespaces), Name: fmt.Sprintf("pod%d", i)}, Node: fmt.Sprintf("node%d", node),
			Labels: map[string]string{"app": fmt.Sprint(i % 17), "tier": fmt.Sprint(i % 3)},
			Addrs: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 1, byte(node + 1), byte(n + 2)}), netip.AddrFrom16([16]byte{0: 0xfd, 3: 1, 5: byte(node + 1), 15: byte(n + 2)}),
			},
			Ports: []store.PodPort{{Name: "http", Protocol: store.TCP, Port: uint16(8000 + i%4)}},
		}
		c.Pods[p.Key()] = p
		if node == 0 {
			locals = append(locals, Local{Key: p.Key(), Addrs: p.Addrs})
		}
	}
	for i := range policies {
		p := &store.NetworkPolicy{
			Name: store.ObjectName{Namespace: fmt.Sprintf("ns%d", i%namespaces), Name: fmt.Sprintf("policy%d", i)}, Pods: *selector("tier", fmt.Sprint(i%3)),
			IsolatesIngress: true, IsolatesEgress: i%4 == 0,
			Ingress: []store.PolicyRule{
				{Peers: []store.PolicyPeer{{Pods: selector("app", fmt.Sprint(i%17))}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Port: uint16(80 + i%5)}}},
				{Peers: []store.PolicyPeer{{Namespaces: selector("team", fmt.Sprint(i%10)), Pods: selector("app", fmt.Sprint(i%7))}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Name: "http"}}},
			},
			Egress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i / 4 % 256), 0, 0}), 16)}}}},
		}
		c.Policies[p.Name] = p
	}
	return c, locals
}

func started() *Filter {
	c, locals := large()
	f := New(testConfig)
	f.SetLocal(locals)
	f.Apply(c)
	return f
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// BenchmarkFirstPlan is a daemon's start in a large cluster.
func BenchmarkFirstPlan(b *testing.B) {
	c, locals := large()
	for b.Loop() {
		before := heap()
		f := New(testConfig)
		f.SetLocal(locals)
		f.Apply(c)
		p := f.Plan()
		b.ReportMetric(heap()-before, "MiB")
		s := f.Stats()
		b.ReportMetric(float64(s.Pairs), "pairs")
		b.ReportMetric(float64(s.Classes), "classes")
		runtime.KeepAlive(p)
	}
}

// BenchmarkRemotePod is a label that changes on a pod of another node, forth and back, between two classes that are there.
func BenchmarkRemotePod(b *testing.B) {
	f := started()
	f.Plan()
	key, other := remotePods(f)
	changes := [2]store.PolicyChanges{}
	for i, labels := range []map[string]string{f.pods[key].object.Labels, f.pods[other].object.Labels} {
		p := *f.pods[key].object
		p.Labels = labels
		changes[1-i] = podChanges(&p)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f.Apply(changes[i%2])
		f.Plan()
		i++
	}
}

// remotePods returns two pods of one namespace that differ.
func remotePods(f *Filter) (a, b store.PodKey) {
	for _, n := range []string{"ns3", "ns4", "ns5"} {
		for p := range f.namespaces[n].pods {
			for q := range f.namespaces[n].pods {
				if p.object.Node != "node0" && f.addrs[p.object.Addrs[0]].entry != f.addrs[q.object.Addrs[0]].entry {
					return p.object.Key(), q.object.Key()
				}
			}
		}
	}
	return a, b
}

// BenchmarkPolicy is a policy that comes and goes.
func BenchmarkPolicy(b *testing.B) {
	f := started()
	f.Plan()
	p := webPolicy()
	p.Name.Namespace, p.Pods = "ns3", store.Selector{}
	changes := [2]store.PolicyChanges{
		{Policies: map[store.ObjectName]*store.NetworkPolicy{p.Name: p}}, {Policies: map[store.ObjectName]*store.NetworkPolicy{p.Name: nil}},
	}
	i := 0
	for b.Loop() {
		f.Apply(changes[i%2])
		f.Plan()
		i++
	}
}

// BenchmarkAllows is one flow of conntrack.
func BenchmarkAllows(b *testing.B) {
	f := started()
	f.Plan()
	var flow Flow
	flow.Src, flow.Dst = netip.MustParseAddr("10.1.9.9"), netip.MustParseAddr("10.1.1.9")
	flow.Protocol, flow.Port = store.TCP, 80
	b.ReportAllocs()
	for b.Loop() {
		f.Allows(flow)
	}
}
