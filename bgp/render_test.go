package bgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addresses(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func learned(dst string, nextHops ...string) *Route {
	return &Route{Prefix: prefix(dst), NextHops: addresses(nextHops...)}
}

func hop(gateway, link string) kernel.NextHop {
	return kernel.NextHop{Gateway: netip.MustParseAddr(gateway), Link: link}
}

// here is a node with two ways out and a peer behind the overlay.
func here() side {
	tunnel := &kernel.Fragment{Owner: "10.5.9.0-24", Routes: []kernel.Route{
		{Dst: prefix("10.5.9.0/24"), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("10.5.9.0"), Link: "flannel.1", OnLink: true}}},
		{Dst: prefix("fd00:5:0:9::/64"), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("fd00:5:0:9::"), Link: "flannel-v6.1", OnLink: true}}},
	}}
	return side{
		uplink: kernel.Uplink{
			Name: "eth0", MTU: 1500, Addresses: []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64")},
			Routes: []kernel.Route{
				{Dst: prefix("192.0.2.0/24"), NextHops: []kernel.NextHop{{Link: "eth0"}}},
				{Dst: prefix("203.0.113.0/24"), NextHops: []kernel.NextHop{{Link: "eth1"}}},
				{Dst: prefix("198.51.100.0/24"), NextHops: []kernel.NextHop{hop("192.0.2.253", "eth0")}},
				{Dst: prefix("198.51.100.0/24"), Metric: 50, NextHops: []kernel.NextHop{hop("203.0.113.1", "eth1")}},
				{Dst: prefix("0.0.0.0/0"), Metric: 100, NextHops: []kernel.NextHop{hop("192.0.2.254", "eth0")}},
			},
		},
		self:    &store.Lease{Subnet: prefix("10.5.1.0/24"), IPv6Subnet: prefix("fd00:5:0:1::/64"), PublicIP: netip.MustParseAddr("192.0.2.1")},
		tunnels: map[netip.Addr]*kernel.Fragment{netip.MustParseAddr("198.51.100.9"): tunnel, netip.MustParseAddr("2001:db8:9::9"): tunnel},
	}
}

func TestNextHops(t *testing.T) {
	further := []*Route{
		learned("198.18.0.7/32", "192.0.2.7"),              // a router's loopback address
		learned("198.18.0.8/32", "198.18.0.7"),             // that of one behind it
		learned("198.18.1.1/32", "198.18.1.2"),             // two that lead to each other
		learned("198.18.1.2/32", "198.18.1.1"),             //
		learned("198.18.2.0/24", "192.0.2.2", "192.0.2.3"), // two ways
		learned("2001:db8:c::/64", "192.0.2.2"),            // of the wrong family
	}
	tests := []struct {
		name  string
		route *Route
		want  []kernel.NextHop
		err   string
	}{
		{"on the uplink's own network", learned("10.5.2.0/24", "192.0.2.2"), []kernel.NextHop{hop("192.0.2.2", "eth0")}, ""},
		{"IPv6", learned("fd00:5:0:2::/64", "2001:db8::2"), []kernel.NextHop{hop("2001:db8::2", "eth0")}, ""},
		{"two", learned("10.5.2.0/24", "192.0.2.2", "192.0.2.3"), []kernel.NextHop{hop("192.0.2.2", "eth0"), hop("192.0.2.3", "eth0")}, ""},
		{"one of two is this node", learned("10.5.2.0/24", "192.0.2.1", "192.0.2.3"), []kernel.NextHop{hop("192.0.2.3", "eth0")}, "is this node itself"},
		{"on another link", learned("10.5.2.0/24", "203.0.113.5"), []kernel.NextHop{hop("203.0.113.5", "eth1")}, ""},
		{"behind a router, the lower metric", learned("10.5.2.0/24", "198.51.100.2"), []kernel.NextHop{hop("192.0.2.253", "eth0")}, ""},
		{"behind the default route", learned("10.5.2.0/24", "100.64.0.1"), []kernel.NextHop{hop("192.0.2.254", "eth0")}, ""},
		{"a node behind the overlay", learned("10.99.0.0/24", "198.51.100.9"),
			[]kernel.NextHop{{Gateway: netip.MustParseAddr("10.5.9.0"), Link: "flannel.1", OnLink: true}}, ""},
		{"a node behind the overlay, IPv6", learned("fd00:99::/64", "2001:db8:9::9"),
			[]kernel.NextHop{{Gateway: netip.MustParseAddr("fd00:5:0:9::"), Link: "flannel-v6.1", OnLink: true}}, ""},
		{"by another learned route", learned("10.5.2.0/24", "198.18.0.7"), []kernel.NextHop{hop("192.0.2.7", "eth0")}, ""},
		{"by two more", learned("10.5.2.0/24", "198.18.0.8"), []kernel.NextHop{hop("192.0.2.7", "eth0")}, ""},
		{"by a learned route with two next hops", learned("10.5.2.0/24", "198.18.2.5"),
			[]kernel.NextHop{hop("192.0.2.2", "eth0"), hop("192.0.2.3", "eth0")}, ""},
		{"by learned routes in a loop", learned("10.5.2.0/24", "198.18.1.1"), nil, "more than 4 learned routes"},
		{"this node", learned("10.5.2.0/24", "192.0.2.1"), nil, "is this node itself"},
		{"a pod of this node", learned("10.5.2.0/24", "10.5.1.7"), nil, "is in this node's pod subnet"},
		{"not unicast", learned("10.5.2.0/24", "224.0.0.5"), nil, "is no unicast address"},
		{"IPv4 by way of IPv6", learned("10.5.2.0/24", "2001:db8::2"), []kernel.NextHop{hop("2001:db8::2", "eth0")}, ""},
		{"IPv6 by way of IPv4", learned("fd00:5:0:2::/64", "192.0.2.2"), nil, "is no IPv6 address, which an IPv6 route needs"},
		{"IPv6 by way of IPv4 behind a router", learned("fd00:5:0:2::/64", "100.64.0.1"), nil, "is no IPv6 address"},
		{"IPv6 by way of mapped IPv4", learned("fd00:5:0:2::/64", "::ffff:192.0.2.2"), nil, "is no IPv6 address"},
		{"IPv6 by way of IPv6 that is reached by IPv4", learned("fd00:5:0:2::/64", "2001:db8:c::1"), nil, "is no IPv6 address"},
		{"IPv6 behind the overlay, by way of IPv4", learned("fd00:99::/64", "198.51.100.9"),
			[]kernel.NextHop{{Gateway: netip.MustParseAddr("fd00:5:0:9::"), Link: "flannel-v6.1", OnLink: true}}, ""},
		{"nowhere", learned("fd00:5:0:2::/64", "2001:db8:7::1"), nil, "neither on eth0 nor reached by any route"},
		{"no next hop", learned("10.5.2.0/24"), nil, "has no next hop"},
		{"this node's own subnet", learned("10.5.1.0/24", "192.0.2.2"), nil, "is within 10.5.1.0/24"},
		{"one pod of this node", learned("10.5.1.7/32", "192.0.2.2"), nil, "is within 10.5.1.0/24"},
		{"the network of all pods", learned("10.5.0.0/16", "192.0.2.254"), []kernel.NextHop{hop("192.0.2.254", "eth0")}, ""},
		{"the uplink's network", learned("192.0.2.0/24", "192.0.2.254"), nil, "is within 192.0.2.0/24"},
		{"another node's address", learned("192.0.2.2/32", "192.0.2.254"), nil, "is within 192.0.2.0/24"},
		{"a default route", learned("0.0.0.0/0", "192.0.2.253"), []kernel.NextHop{hop("192.0.2.253", "eth0")}, ""},
		{"loopback", learned("127.0.0.0/8", "192.0.2.2"), nil, "is not a network that packets are routed to"},
		{"multicast", learned("224.0.0.0/4", "192.0.2.2"), nil, "is not a network that packets are routed to"},
		{"its own announcement", &Route{Prefix: prefix("10.5.1.0/24"), Local: true}, nil, ""},
		{"what the overlay reaches", learned("10.5.9.0/24", "192.0.2.254"), nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r renderer
			fragments, rejects := r.fragments(here(), append(slices.Clone(further), tt.route))
			var got []kernel.NextHop
			for _, f := range fragments {
				if f.Owner == owner(tt.route) {
					got = f.Routes[0].NextHops
				}
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b kernel.NextHop) bool { return a.Compare(b) == 0 })); diff != "" {
				t.Error(diff)
			}
			reason := ""
			for _, reject := range rejects {
				if reject.Key == owner(tt.route) {
					reason = reject.Err.Error()
				}
			}
			if (tt.err == "") != (reason == "") || !strings.Contains(reason, tt.err) {
				t.Errorf("rejected for %q, want %q", reason, tt.err)
			}
		})
	}
}

func text(fragments []*kernel.Fragment) string {
	var lines []string
	for _, f := range fragments {
		for _, r := range f.Routes {
			lines = append(lines, fmt.Sprintf("%s: %v metric %d type %d", f.Owner, r, r.Metric, r.Type))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRenderedRoutes(t *testing.T) {
	var r renderer
	s := here()
	s.tunnels = nil
	fragments, rejects := r.fragments(s, []*Route{learned("10.5.2.0/24", "192.0.2.2"), {Prefix: prefix("10.5.1.0/24"), Local: true}})
	if len(rejects) > 0 {
		t.Errorf("rejected: %v", rejects)
	}
	want := `bgp 10.5.2.0/24: route 10.5.2.0/24 via 192.0.2.2 dev eth0 metric 32 type 0
own subnets: route 10.5.1.0/24 metric 4096 type 1
own subnets: route fd00:5:0:1::/64 metric 4096 type 1`
	if diff := cmp.Diff(want, text(fragments)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatDidNotChangeIsTheSameFragment(t *testing.T) {
	var r renderer
	s := here()
	a, b, c := learned("10.5.2.0/24", "192.0.2.2"), learned("10.5.3.0/24", "198.51.100.2"), learned("10.5.4.0/24", "192.0.2.4")
	pointers := func(s side, routes ...*Route) map[string]*kernel.Fragment {
		fragments, _ := r.fragments(s, routes)
		byOwner := map[string]*kernel.Fragment{}
		for _, f := range fragments {
			byOwner[f.Owner] = f
		}
		return byOwner
	}
	before := pointers(s, a, b)
	after := pointers(s, a, b, c)
	for name, f := range before {
		if after[name] != f {
			t.Errorf("%s is another fragment although nothing about it changed", name)
		}
	}
	s.uplink.Routes = slices.Clone(s.uplink.Routes)
	s.uplink.Routes[2].NextHops = []kernel.NextHop{hop("192.0.2.252", "eth0")}
	moved := pointers(s, a, b, c)
	if moved[owner(a)] != after[owner(a)] || moved[owner(c)] != after[owner(c)] {
		t.Error("routes whose next hops are on the uplink changed with a route that they do not use")
	}
	if got := moved[owner(b)].Routes[0].NextHops[0]; got.Compare(hop("192.0.2.252", "eth0")) != 0 {
		t.Errorf("the next hop is reached by %v", got)
	}
}

func TestOrderOfRoutesCarriesNoMeaning(t *testing.T) {
	var routes []*Route
	for i := range 40 {
		routes = append(routes, learned(fmt.Sprintf("10.5.%d.0/24", i+2), fmt.Sprintf("192.0.2.%d", i%7+1), "198.18.0.7"))
	}
	routes = append(routes, learned("198.18.0.7/32", "192.0.2.7"))
	var want string
	for range 20 {
		rand.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
		var r renderer
		fragments, _ := r.fragments(here(), routes)
		if got := text(fragments); want == "" {
			want = got
		} else if got != want {
			t.Fatal(cmp.Diff(want, got))
		}
	}
}

// The renderer's memory must never show: after any sequence of changes it renders what one without memory does.
func TestMemoryDoesNotShow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var r renderer
	current := map[int]*Route{}
	s := here()
	all := s.tunnels
	for step := range 300 {
		i := rng.IntN(20)
		switch rng.IntN(5) {
		case 0:
			delete(current, i)
		case 1:
			current[100] = learned("198.18.0.7/32", fmt.Sprintf("192.0.2.%d", rng.IntN(5)+1))
		case 2:
			s.tunnels = map[netip.Addr]*kernel.Fragment{}
			for a, f := range all {
				if rng.IntN(2) == 0 {
					s.tunnels[a] = f
				}
			}
		default:
			hops := []string{"192.0.2.2", "198.51.100.9", "198.18.0.7", "100.64.0.1"}
			current[i] = learned(fmt.Sprintf("10.5.%d.0/24", i), hops[rng.IntN(len(hops))], hops[rng.IntN(len(hops))])
		}
		var routes []*Route
		for _, route := range current {
			routes = append(routes, route)
		}
		got, _ := r.fragments(s, routes)
		var fresh renderer
		want, _ := fresh.fragments(s, routes)
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
	}
}

func BenchmarkOneChangeAmong10000(b *testing.B) {
	s := here()
	routes := make([]*Route, 10000)
	for i := range routes {
		routes[i] = learned(fmt.Sprintf("10.%d.%d.0/24", 8+i/250, i%250), fmt.Sprintf("192.0.2.%d", i%100+2))
	}
	var r renderer
	r.fragments(s, routes)
	b.ReportAllocs()
	for i := range b.N {
		routes[i%len(routes)] = &Route{Prefix: routes[i%len(routes)].Prefix, NextHops: routes[(i+1)%len(routes)].NextHops}
		r.fragments(s, routes)
	}
}
