package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/netconf"
)

// stepsOfAdd is how many changes an ADD makes; a test that injects a fault into each relies on it.
func stepsOfAdd(t *testing.T) int {
	n := newNode(t, "/ns/a")
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	if n.step < 10 {
		t.Fatalf("an ADD made %d steps; want each counted", n.step)
	}
	return n.step
}

func TestAddThatFailsLeavesNothing(t *testing.T) {
	for step := 1; step <= stepsOfAdd(t); step++ {
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			n := newNode(t, "/ns/a", "/ns/b")
			if _, err := n.plugin().Add(t.Context(), plain("b", "/ns/b")); err != nil {
				t.Fatal(err)
			}
			before := n.left()
			n.fail = step
			if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); !errors.Is(err, errInjected) {
				t.Fatalf("have error %v, want the injected one", err)
			}
			if diff := cmp.Diff(before, n.left()); diff != "" {
				t.Errorf("left behind (+), or lost (-):\n%s", diff)
			}
		})
	}
}

// What cannot be rolled back is told, and the record is kept for a DEL to end it.
func TestRollBackThatFails(t *testing.T) {
	for _, what := range []string{"remove pair", "unshape", "remove ports", "release", "remove record"} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, "/ns/a")
			n.fail, n.failAt = stepsOfAdd(t), what
			_, err := n.plugin().Add(t.Context(), request("a", "/ns/a"))
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("have error %v, want one about %q", err, what)
			}
			if !slices.Contains(n.left(), "record a/eth0") {
				t.Error("the record is gone")
			}
			n.fail, n.failAt = 0, ""
			if err := n.plugin().Del(t.Context(), request("a", "")); err != nil {
				t.Fatal(err)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// halfPair is a kernel in which a pair was made but could neither be marked nor removed again.
type halfPair struct{ *node }

func (k halfPair) CreatePair(netns string, p kernel.PodPair) error {
	return errors.Join(k.node.CreatePair(netns, p), errInjected)
}

func TestHalfMadePairIsRolledBack(t *testing.T) {
	n := newNode(t, "/ns/a")
	p := n.plugin()
	p.Kernel = halfPair{n}
	if _, err := p.Add(t.Context(), request("a", "/ns/a")); !errors.Is(err, errInjected) {
		t.Errorf("have error %v, want the injected one", err)
	}
	if left := n.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What is left when an ADD is killed can be ended by a DEL, a GC or another ADD.
func TestAddThatIsKilled(t *testing.T) {
	ends := map[string]func(*node) error{
		"DEL": func(n *node) error { return n.plugin().Del(n.t.Context(), request("a", "")) },
		"GC": func(n *node) error {
			cfg := request("a", "").Config
			cfg.ValidAttachments = []kernel.PodOwner{{ContainerID: "b", IfName: "eth0"}}
			return n.plugin().GC(n.t.Context(), cfg)
		},
		"ADD and DEL": func(n *node) error {
			if _, err := n.plugin().Add(n.t.Context(), request("a", "/ns/a")); err != nil && !(errors.Is(err, ErrExists) && n.complete[request("a", "").Owner]) {
				return err
			}
			return n.plugin().Del(n.t.Context(), request("a", ""))
		},
	}
	for step := 1; step <= stepsOfAdd(t); step++ {
		for name, end := range ends {
			t.Run(fmt.Sprint("after step ", step, " then ", name), func(t *testing.T) {
				n := newNode(t, "/ns/a", "/ns/b")
				if _, err := n.plugin().Add(t.Context(), plain("b", "/ns/b")); err != nil {
					t.Fatal(err)
				}
				before := n.left()
				n.kill = step
				if !n.killed(func() { _, _ = n.plugin().Add(t.Context(), request("a", "/ns/a")) }) {
					t.Fatal("the ADD lived on")
				}
				if err := end(n); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, n.left()); diff != "" {
					t.Errorf("left behind (+), or lost (-):\n%s", diff)
				}
			})
		}
	}
}

func TestDelThatFailsCanBeRepeated(t *testing.T) {
	for _, fault := range []string{"fails", "is killed"} {
		for step := 1; step <= 5; step++ {
			t.Run(fmt.Sprint(fault, " at step ", step), func(t *testing.T) {
				n := newNode(t, "/ns/a")
				if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
					t.Fatal(err)
				}
				if fault == "fails" {
					n.fail = step
					if err := n.plugin().Del(t.Context(), request("a", "/ns/a")); !errors.Is(err, errInjected) {
						t.Fatalf("have error %v, want the injected one", err)
					}
					n.fail = 0
				} else {
					n.kill = step
					if !n.killed(func() { _ = n.plugin().Del(t.Context(), request("a", "/ns/a")) }) {
						t.Fatal("the DEL lived on")
					}
				}
				for range 2 {
					if err := n.plugin().Del(t.Context(), request("a", "/ns/a")); err != nil {
						t.Fatal(err)
					}
				}
				if left := n.left(); left != nil {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

func TestDelNeedsNothing(t *testing.T) {
	owner := request("a", "").Owner
	tests := []struct {
		name  string
		spoil func(*node)
	}{
		{"no network namespace", func(n *node) { delete(n.netns, "/ns/a") }},
		{"no link", func(n *node) { clear(n.pairs); clear(n.netns["/ns/a"]) }},
		{"no lease", func(n *node) { clear(n.leases) }},
		{"no shaper", func(n *node) { clear(n.shapers) }},
		{"no host port", func(n *node) { clear(n.ports) }},
		{"no record", func(n *node) { clear(n.records) }},
		{"a record that cannot be read", func(n *node) { n.broken = append(n.broken, owner) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "/ns/a")
			if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
				t.Fatal(err)
			}
			test.spoil(n)
			if err := n.plugin().Del(t.Context(), request("a", "")); err != nil {
				t.Fatal(err)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The network namespace and the interface's name say nothing about whose the interface is.
func TestDelLeavesOthersAlone(t *testing.T) {
	n := newNode(t, "/ns/a")
	if _, err := n.plugin().Add(t.Context(), request("new", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	before := n.left()
	if err := n.plugin().Del(t.Context(), request("old", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, n.left()); diff != "" {
		t.Error(diff)
	}
}

func TestHostPortOfAnotherPod(t *testing.T) {
	n := newNode(t, "/ns/a", "/ns/b")
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	before := n.left()
	if _, err := n.plugin().Add(t.Context(), request("b", "/ns/b")); !errors.Is(err, hostport.ErrTaken) {
		t.Fatalf("have error %v, want ErrTaken", err)
	}
	if diff := cmp.Diff(before, n.left()); diff != "" {
		t.Errorf("the pod that was first lost something:\n%s", diff)
	}
}

// Two attachments whose host links would have the same name must not share a link.
func TestHostLinkCollision(t *testing.T) {
	n := newNode(t, "/ns/a", "/ns/x")
	req := request("a", "/ns/a")
	taken := hostLink("net", req.Owner, 0)
	foreign := kernel.PodOwner{ContainerID: "x", IfName: "eth0"}
	n.pairs[taken] = pair{PodPair: kernel.PodPair{HostLink: taken, Owner: foreign}, netns: "/ns/x"}
	result, err := n.plugin().Add(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if want := hostLink("net", req.Owner, 1); result.Interfaces[1].Name != want {
		t.Errorf("host link is %s, want %s", result.Interfaces[1].Name, want)
	}
	clear(n.records) // the DEL has only names to go by
	clear(n.ports)
	if err := n.plugin().Del(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"link " + taken}, n.left()); diff != "" {
		t.Error(diff)
	}
}

func TestAddTwice(t *testing.T) {
	n := newNode(t, "/ns/a")
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	before := n.left()
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); !errors.Is(err, ErrExists) {
		t.Fatalf("have error %v, want ErrExists", err)
	}
	if diff := cmp.Diff(before, n.left()); diff != "" {
		t.Error(diff)
	}
}

// After a reboot the record of an attachment may be all that is left of it.
func TestAddAfterReboot(t *testing.T) {
	n := newNode(t, "/ns/a")
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	clear(n.pairs)
	clear(n.netns["/ns/a"])
	clear(n.shapers)
	clear(n.ports)
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
}

func TestAddRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*node, *Request)
		want   error
	}{
		{"a prevResult", func(_ *node, r *Request) { r.Config.PrevResult = json.RawMessage(`{}`) }, ErrPrevResult},
		{"a missing network namespace", func(_ *node, r *Request) { r.Netns = "/ns/none" }, kernel.ErrNetnsMissing},
		{"an interface that exists", func(n *node, _ *Request) { n.netns["/ns/a"]["eth0"] = kernel.PodConfig{} }, kernel.ErrInterfaceExists},
		{"an ADD that runs", func(n *node, r *Request) { n.running[r.Owner] = true }, ErrBusy},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "/ns/a")
			req := request("a", "/ns/a")
			test.change(n, &req)
			before := n.left()
			if _, err := n.plugin().Add(t.Context(), req); !errors.Is(err, test.want) {
				t.Fatalf("have error %v, want %v", err, test.want)
			}
			if diff := cmp.Diff(before, n.left()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDelWhileAddRuns(t *testing.T) {
	n := newNode(t, "/ns/a")
	n.running[request("a", "").Owner] = true
	if err := n.plugin().Del(t.Context(), request("a", "")); !errors.Is(err, ErrBusy) {
		t.Errorf("have error %v, want ErrBusy", err)
	}
}

func TestRoutes(t *testing.T) {
	table, scope := 100, scopeLink
	lease := Lease{Addresses: []ipam.Address{address(4, 0), address(6, 0)}}
	dst := netip.MustParsePrefix("192.0.2.0/24")
	tests := []struct {
		name   string
		routes []ipam.Route
		want   []kernel.PodRoute
	}{
		{"none given: a default route by each gateway", nil, []kernel.PodRoute{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1")},
			{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::1")}}},
		{"gateway of the family", []ipam.Route{{Dst: dst}}, []kernel.PodRoute{{Dst: dst, Gateway: netip.MustParseAddr("10.0.0.1")}}},
		{"gateway of its own", []ipam.Route{{Dst: dst, GW: netip.MustParseAddr("10.0.0.9"), MTU: 1400, AdvMSS: 1300, Priority: 5, Table: &table}},
			[]kernel.PodRoute{{Dst: dst, Gateway: netip.MustParseAddr("10.0.0.9"), MTU: 1400, AdvMSS: 1300, Priority: 5, Table: 100}}},
		{"on the link", []ipam.Route{{Dst: dst, Scope: &scope}}, []kernel.PodRoute{{Dst: dst, Scope: &scope}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := &add{req: request("a", "/ns/a")}
			lease.Routes = test.routes
			got := a.podConfig(lease)
			same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
			if diff := cmp.Diff(test.want, got.Routes, same, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResult(t *testing.T) {
	for version, want := range map[string]string{
		"0.4.0": `{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"00:00:00:00:00:00"},{"name":"HOST","mac":"HOSTMAC"},` +
			`{"name":"eth0","mac":"02:00:00:00:00:09","sandbox":"/ns/a"}],"ips":[{"version":"4","interface":2,"address":"10.0.0.2/24","gateway":"10.0.0.1"},` +
			`{"version":"6","interface":2,"address":"fd00::2/64","gateway":"fd00::1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},` +
			`{"dst":"::/0","gw":"fd00::1"}],"dns":{"nameservers":["192.0.2.53"]}}`,
		"1.0.0": `{"cniVersion":"1.0.0","interfaces":[{"name":"cni0","mac":"00:00:00:00:00:00"},{"name":"HOST","mac":"HOSTMAC"},` +
			`{"name":"eth0","mac":"02:00:00:00:00:09","sandbox":"/ns/a"}],"ips":[{"interface":2,"address":"10.0.0.2/24","gateway":"10.0.0.1"},` +
			`{"interface":2,"address":"fd00::2/64","gateway":"fd00::1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},` +
			`{"dst":"::/0","gw":"fd00::1"}],"dns":{"nameservers":["192.0.2.53"]}}`,
		"1.1.0": `{"cniVersion":"1.1.0","interfaces":[{"name":"cni0","mac":"00:00:00:00:00:00","mtu":1500},{"name":"HOST","mac":"HOSTMAC","mtu":1450},` +
			`{"name":"eth0","mac":"02:00:00:00:00:09","mtu":1450,"sandbox":"/ns/a"}],"ips":[{"interface":2,"address":"10.0.0.2/24","gateway":"10.0.0.1"},` +
			`{"interface":2,"address":"fd00::2/64","gateway":"fd00::1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},` +
			`{"dst":"::/0","gw":"fd00::1"}],"dns":{"nameservers":["192.0.2.53"]}}`,
	} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, "/ns/a")
			req := request("a", "/ns/a")
			req.Config.CNIVersion, req.Config.DNS = version, netconf.DNS{Nameservers: []string{"192.0.2.53"}}
			req.Config.MAC, req.Args.MAC = kernel.MAC{2, 0, 0, 0, 0, 8}, kernel.MAC{2, 0, 0, 0, 0, 9}
			result, err := n.plugin().Add(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.NewReplacer("HOSTMAC", stableMAC("host", req).String(), "HOST", hostLink("net", req.Owner, 0)).Replace(want)
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBridgeGetsTheGateways(t *testing.T) {
	n := newNode(t, "/ns/a")
	if _, err := n.plugin().Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}
	if !slices.Equal(want, n.bridge.Gateways) {
		t.Errorf("bridge has %v, want %v", n.bridge.Gateways, want)
	}
}

func TestStatus(t *testing.T) {
	for step, what := range []string{"", "ipam status", "probe"} {
		n := newNode(t)
		n.fail = step
		err := n.plugin().Status(t.Context())
		if (err != nil) != (step > 0) || err != nil && !strings.Contains(err.Error(), what) {
			t.Errorf("with %q failing: have error %v", what, err)
		}
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	seen := map[string]string{}
	for i := range 10000 {
		owner := kernel.PodOwner{ContainerID: fmt.Sprint("container", i), IfName: "eth0"}
		for _, name := range []string{hostLink("net", owner, 0), hostLink("other", owner, 0), hostLink("net", owner, 1), shaper("net", owner)} {
			if len(name) != 15 {
				t.Fatalf("%q has %d bytes", name, len(name))
			}
			if other, twice := seen[name]; twice {
				t.Fatalf("%s: name of %s and %s", name, other, owner)
			}
			seen[name] = owner.String()
		}
	}
}
