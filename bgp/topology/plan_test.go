package topology

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	start  = time.Unix(1e9, 0)
	same0  = cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }), cmpopts.EquateEmpty(),
	}
)

// input is that of node n0, 192.0.2.1, whose uplink reaches 192.0.2.0/24.
func input(t *testing.T, text string, leases ...*store.Lease) Input {
	t.Helper()
	cfg, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	self := lease(0, `{"AS":64512,"Node":"n0","RouterID":"192.0.2.1"}`)
	return Input{
		PlanInput: bgp.PlanInput{
			Uplink: kernel.Uplink{Name: "eth0", Addresses: []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64")}},
			Self:   self, Leases: append([]*store.Lease{self}, leases...),
		},
		Network: network, Config: cfg, Node: cfg.Node("n0", map[string]string{"rack": "r1"}, config.NodeSettings{}), Started: start.Add(-2 * time.Second), Now: start,
	}
}

func lease(i int, data string) *store.Lease {
	return &store.Lease{Subnet: subnetOf(i), PublicIP: addrOf(i), BackendType: bgp.BackendType, BackendData: json.RawMessage(data)}
}

// member is the lease of a node of the default AS, with more in its data.
func member(i int, more string) *store.Lease {
	return lease(i, fmt.Sprintf(`{"AS":64512,"Node":"n%d","RouterID":%q%s}`, i, addrOf(i), more))
}

func rejects(p Plan) string {
	var all []string
	for _, r := range p.Rejects {
		all = append(all, r.Key+": "+r.Err.Error())
	}
	return strings.Join(all, "\n")
}

func names(p Plan) (all []string) {
	for _, peer := range p.Instance.Peers {
		all = append(all, peer.Name)
	}
	return all
}

func TestTheDefaultIsAMesh(t *testing.T) {
	in := input(t, "", member(1, ""), member(2, `,"Port":1179`))
	p := Make(in)
	graceful := &bgp.GracefulRestart{RestartTime: 30 * time.Second, StaleTime: 20 * time.Second}
	pods := []bgp.PrefixMatch{{Prefix: prefix("10.5.0.0/16"), Min: 16, Max: 32}}
	settings := bgp.Settings{
		AS: 64512, LocalAddress: addr("192.0.2.1"), Graceful: graceful, Reflector: &bgp.Reflector{ClusterID: addr("192.0.2.1")},
		Timers: bgp.Timers{Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second},
		Import: []bgp.Rule{{Prefixes: pods}, {Reject: true}},
		Export: []bgp.Rule{{Prefixes: pods, Originated: true}, {Reject: true}},
	}
	want := Plan{
		Instance: bgp.Instance{
			AS: 64512, RouterID: addr("192.0.2.1"), Port: 179, IPv4: true,
			Peers: []bgp.Peer{
				{Name: "node n1", Address: addr("192.0.2.2"), Settings: settings},
				{Name: "node n2", Address: addr("192.0.2.3"), Port: 1179, Settings: settings},
			},
			Announcements: []bgp.Announcement{{Prefix: prefix("10.5.0.0/24"), NextHop: addr("192.0.2.1"), Origin: bgp.OriginPodSubnet}},
		},
		Publish: bgp.LeaseData{AS: 64512, Node: "n0", RouterID: addr("192.0.2.1")},
	}
	if diff := cmp.Diff(want, p, same0); diff != "" {
		t.Error(diff)
	}
}

const busy = `
accept: [172.16.0.0/12 le 24]
nodes: [{match: {names: [n0, n7]}, reflector: {}}]
peers:
- {name: tor, as: 65000, address: 192.0.2.254}
- {name: two, as: 65000, address: 192.0.2.253}
- {name: rack, as: 65000, range: 198.51.100.0/24}
- {name: host, as: 65000, range: 198.51.100.128/25}
announce: [{prefix: 10.99.0.0/24}, {prefix: 10.98.0.0/24, prepend: 1}]
services: {loadBalancerIPs: true, clusterIPs: true}
aggregate: [{prefix: 10.0.0.0/8, summaryOnly: true}]
`

func TestTheOrderOfInputMeansNothing(t *testing.T) {
	in := input(t, busy)
	for i := 1; i < 60; i++ {
		more := ""
		switch {
		case i%9 == 0:
			more = `,"RouterID":"192.0.2.1"` // this node's own
		case i%7 == 0:
			more = `,"Reflector":{"ClusterID":"1.1.1.1"},"Hears":["n0"]`
		case i%2 == 0:
			more = `,"Hears":["n0","n7"],"Port":1179`
		}
		in.Leases = append(in.Leases, member(i, more))
		in.Sessions = append(in.Sessions, bgp.SessionState{Address: addrOf(i), State: "Established", EndOfRIB: i%3 > 0, Since: start.Add(-time.Duration(i) * time.Second)})
	}
	old := member(3, `,"Port":7`)
	old.Subnet = subnetOf(103)
	in.Leases = append(in.Leases, old)
	in.Services = loadBalancers("203.0.113.2/32", "203.0.113.1/32", "192.0.2.1/32", "192.0.2.4/32")
	in.Services = append(in.Services, bgp.ServiceAddress{Prefix: prefix("203.0.113.2/32"), Kind: bgp.ClusterIP})
	want := Make(in)
	if len(want.Instance.Peers) < 40 || len(want.Rejects) < 6 {
		t.Fatalf("%d peers, rejects:\n%s", len(want.Instance.Peers), rejects(want))
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		r.Shuffle(len(in.Leases), func(i, j int) { in.Leases[i], in.Leases[j] = in.Leases[j], in.Leases[i] })
		r.Shuffle(len(in.Sessions), func(i, j int) { in.Sessions[i], in.Sessions[j] = in.Sessions[j], in.Sessions[i] })
		r.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
		if diff := cmp.Diff(want, Make(in), same0); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestAMeshOfTwoHundred(t *testing.T) {
	var leases []*store.Lease
	for i := 1; i < 200; i++ {
		leases = append(leases, member(i, ""))
	}
	p := Make(input(t, "", leases...))
	if len(p.Instance.Peers) != 199 || len(p.Rejects) != 0 {
		t.Fatalf("%d peers, rejects %s", len(p.Instance.Peers), rejects(p))
	}
	for _, peer := range p.Instance.Peers[1:] {
		if &peer.Import[0] != &p.Instance.Peers[0].Import[0] || &peer.Export[0] != &p.Instance.Peers[0].Export[0] {
			t.Fatal("the nodes do not share their filters")
		}
	}
}

func TestABadLeaseConcernsItsNodeAlone(t *testing.T) {
	own := member(1, "")
	own.PublicIP = addr("192.0.2.1")
	ipv6 := member(1, "")
	ipv6.PublicIP, ipv6.PublicIPv6, ipv6.BackendV6Data = netip.Addr{}, addr("2001:db8::2"), ipv6.BackendData
	vxlan := member(1, "")
	vxlan.BackendType = "vxlan"
	again := member(2, `,"Port":9`)
	again.Subnet = subnetOf(77)
	alike := member(2, "")
	alike.Subnet = subnetOf(77)
	for _, tc := range []struct {
		name  string
		lease *store.Lease
		want  string
	}{
		{"no data", lease(1, ""), "10.5.1.0-24: no backend data"},
		{"garbage", lease(1, "{"), "10.5.1.0-24: backend data: unexpected end of JSON input"},
		{"no AS", lease(1, `{"Node":"n1","RouterID":"192.0.2.2"}`), "10.5.1.0-24: backend data: AS: have 0"},
		{"this node's address", own, "10.5.1.0-24: public address 192.0.2.1 is this node's own"},
		{"this node's name", lease(1, `{"AS":64512,"Node":"n0","RouterID":"192.0.2.2"}`), "it bears this node's own name, n0"},
		{"this node's router ID", lease(1, `{"AS":64512,"Node":"n1","RouterID":"192.0.2.1"}`), "router ID 192.0.2.1 is this node's own"},
		{"the other family", ipv6, "10.5.1.0-24: it has no public address of a family that this node has one of"},
		{"the address of another", again, "10.5.77.0-24: lease 10.5.2.0-24 has the same address 192.0.2.3 and says something else"},
		{"the same node twice", alike, ""},
		{"another backend", vxlan, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Make(input(t, "", tc.lease, member(2, "")))
			if got := rejects(p); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("rejects %q, want %q", got, tc.want)
			}
			if diff := cmp.Diff([]string{"node n2"}, names(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFamilies(t *testing.T) {
	dual := input(t, "", member(1, ""), member(2, ""))
	dual.Network.EnableIPv6, dual.Network.IPv6 = true, store.Pool{Network: prefix("fd00:5::/48"), SubnetLen: 64}
	self := *dual.Self
	self.IPv6Subnet, self.PublicIPv6 = prefix("fd00:5:0:1::/64"), addr("2001:db8::1")
	dual.Self, dual.Leases[0] = &self, &self
	six := *dual.Leases[2]
	six.PublicIP, six.PublicIPv6, six.BackendV6Data = netip.Addr{}, addr("2001:db8::3"), six.BackendData
	dual.Leases[2] = &six
	p := Make(dual)
	if rejects(p) != "" || !p.Instance.IPv4 || !p.Instance.IPv6 {
		t.Errorf("IPv4 %v, IPv6 %v, rejects %s", p.Instance.IPv4, p.Instance.IPv6, rejects(p))
	}
	for i, want := range []struct{ address, local string }{{"192.0.2.2", "192.0.2.1"}, {"2001:db8::3", "2001:db8::1"}} {
		if peer := p.Instance.Peers[i]; peer.Address != addr(want.address) || peer.LocalAddress != addr(want.local) {
			t.Errorf("session with %v from %v, want %v", peer.Address, peer.LocalAddress, want)
		}
	}
	want := []bgp.Announcement{
		{Prefix: prefix("10.5.0.0/24"), NextHop: addr("192.0.2.1"), Origin: bgp.OriginPodSubnet},
		{Prefix: prefix("fd00:5:0:1::/64"), NextHop: addr("2001:db8::1"), Origin: bgp.OriginPodSubnet},
	}
	if diff := cmp.Diff(want, p.Instance.Announcements, same0); diff != "" {
		t.Error(diff)
	}
}

func TestRouterID(t *testing.T) {
	for _, tc := range []struct {
		name   string
		node   config.Node
		public netip.Addr
		want   netip.Addr
	}{
		{"configured", config.Node{RouterID: addr("1.2.3.4")}, addr("192.0.2.1"), addr("1.2.3.4")},
		{"address", config.Node{Name: "a"}, addr("192.0.2.1"), addr("192.0.2.1")},
		{"name a", config.Node{Name: "a"}, netip.Addr{}, RouterID(config.Node{Name: "a"}, addr("2001:db8::1"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := RouterID(tc.node, tc.public); got != tc.want || bgp.CheckRouterID(got) != nil {
				t.Errorf("RouterID = %v, want %v", got, tc.want)
			}
		})
	}
	if RouterID(config.Node{Name: "a"}, netip.Addr{}) == RouterID(config.Node{Name: "b"}, netip.Addr{}) {
		t.Error("two names have one router ID")
	}
}

func TestSettling(t *testing.T) {
	reflector := member(1, `,"Reflector":{"ClusterID":"1.1.1.1","Serves":{"Labels":{"rack":"r1"}}}`)
	for _, tc := range []struct {
		name    string
		session bgp.SessionState
		before  []string
		hears   bool
		again   time.Duration
	}{
		{"no session", bgp.SessionState{State: "Active"}, nil, false, 0},
		{"not all said", bgp.SessionState{State: "Established", Since: start.Add(-time.Hour)}, nil, false, time.Second},
		{"just said", bgp.SessionState{State: "Established", EndOfRIB: true, Since: start.Add(-time.Second)}, nil, false, 2 * time.Second},
		{"all said", bgp.SessionState{State: "Established", EndOfRIB: true, Since: start.Add(-Settle)}, nil, true, 0},
		{"back from a restart", bgp.SessionState{State: "Established", Since: start.Add(-time.Second)}, []string{"n1"}, true, 0},
		{"restarting", bgp.SessionState{State: "Idle", Restarted: true, Since: start.Add(-5 * time.Second)}, []string{"n1"}, true, 10 * time.Second},
		{"restarting for long", bgp.SessionState{State: "Idle", Restarted: true, Since: start.Add(-15 * time.Second)}, []string{"n1"}, false, 0},
		{"restarting before it was heard", bgp.SessionState{State: "Idle", Restarted: true, Since: start.Add(-time.Second)}, nil, false, 0},
		{"heard by an earlier run", bgp.SessionState{State: "Active"}, []string{"n1"}, true, 18 * time.Second},
		{"gone", bgp.SessionState{State: "Idle", Flaps: 1, Since: start.Add(-time.Second)}, []string{"n1"}, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(t, "", reflector, member(2, `,"Labels":{"rack":"r1"},"Hears":["n1"]`))
			tc.session.Address = addrOf(1)
			in.Sessions, in.Published.Hears = []bgp.SessionState{tc.session}, tc.before
			p := Make(in)
			if hears := len(p.Publish.Hears) > 0; hears != tc.hears || p.Again != tc.again {
				t.Errorf("hears %v, again %v; want %v, %v", hears, p.Again, tc.hears, tc.again)
			}
			if mesh := len(p.Instance.Peers) == 2; mesh == tc.hears {
				t.Errorf("peers: %v", names(p))
			}
			if diff := cmp.Diff(map[string]string{"rack": "r1"}, p.Publish.Labels); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTwoReflectorsOfOneClusterDoNotLinkTheirClients(t *testing.T) {
	for name, want := range map[string]int{"1.1.1.1": 3, "2.2.2.2": 1} {
		in := input(t, "",
			member(1, `,"Reflector":{"ClusterID":"1.1.1.1","Serves":{"Names":["n0"]}},"Hears":["n2"]`),
			member(2, `,"Reflector":{"ClusterID":"`+name+`","Serves":{"Names":["n3"]}},"Hears":["n1"]`),
			member(3, `,"Hears":["n2"]`))
		in.Sessions = []bgp.SessionState{{Address: addrOf(1), State: "Established", EndOfRIB: true, Since: start.Add(-time.Hour)}}
		if got := len(Make(in).Instance.Peers); got != want {
			t.Errorf("cluster IDs 1.1.1.1 and %s: %d sessions, want %d", name, got, want)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{200, 1000} {
		b.Run(fmt.Sprint(n, " nodes, two reflectors"), func(b *testing.B) {
			cfg, err := config.Parse([]byte(`nodes: [{match: {names: [n1, n2]}, reflector: {}}]`))
			if err != nil {
				b.Fatal(err)
			}
			self := member(0, "")
			in := bgp.PlanInput{Self: self, Leases: []*store.Lease{self}}
			planner := New(Options{Network: network, Config: cfg, Record: store.NodeRecord{Name: "n0"}, Now: func() time.Time { return start }}, nil)
			for i := 1; i < n; i++ {
				more := `,"Hears":["n1","n2"]`
				if i < 3 {
					more = `,"Reflector":{"ClusterID":"` + addrOf(i).String() + `"}` + more
				}
				l := member(i, more)
				l.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5 + byte(i>>8), byte(i), 0}), 24)
				in.Leases = append(in.Leases, l)
				in.Sessions = append(in.Sessions, bgp.SessionState{Address: addrOf(i), State: "Established", EndOfRIB: true})
			}
			if p := planner.Plan(in); len(p.Instance.Peers) != 2 {
				b.Fatalf("%d peers, rejects %v", len(p.Instance.Peers), p.Rejects)
			}
			for b.Loop() {
				planner.Plan(in)
			}
		})
	}
}
