//go:build linux

package linux

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twill-cni/twill/kernel"
)

// comparable lets cmp compare netip values by ==, and takes nil for empty.
var comparable = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// underlay is a node with two uplinks of both families.
const underlay = `
link add eth0 type veth peer name peer0
link add eth1 type veth peer name peer1
addr add 192.0.2.1/24 dev eth0
addr add 198.51.100.1/24 dev eth1
addr add 2001:db8::1/64 dev eth0 nodad
addr add 2001:db8:1::1/64 dev eth1 nodad
link set eth0 up
link set peer0 up
link set eth1 up
link set peer1 up`

func via(gateway, link string) kernel.NextHop {
	return kernel.NextHop{Gateway: netip.MustParseAddr(gateway), Link: link}
}

func onLink(gateway, link string) kernel.NextHop {
	return kernel.NextHop{Gateway: netip.MustParseAddr(gateway), Link: link, OnLink: true}
}

func weighted(h kernel.NextHop, weight uint8) kernel.NextHop { h.Weight = weight; return h }

func route(dst string, hops ...kernel.NextHop) kernel.Route {
	return kernel.Route{Dst: netip.MustParsePrefix(dst), NextHops: hops}
}

func set[T any](values ...T) []kernel.Change[T] {
	var changes []kernel.Change[T]
	for _, v := range values {
		changes = append(changes, kernel.Change[T]{Value: v})
	}
	return changes
}

func remove[T any](values ...T) []kernel.Change[T] {
	changes := set(values...)
	for i := range changes {
		changes[i].Delete = true
	}
	return changes
}

// wantNoErrors fails the test on the result of an Apply method that is not nil.
func wantNoErrors(t testing.TB, errs []error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if errs != nil {
		t.Fatalf("%d errors that are all nil; want a nil slice", len(errs))
	}
}

// wantRoutes compares all routes of ours, in any order. Metrics are those of the kernel.
func wantRoutes(t *testing.T, h *Handle, links []string, want ...kernel.Route) {
	t.Helper()
	got, err := h.Routes(context.Background(), links)
	if err != nil {
		t.Fatal(err)
	}
	want = slices.Clone(want)
	for i := range want {
		want[i].Metric = want[i].Key().Metric
	}
	wantSame(t, "routes", want, got, func(a, b kernel.Route) bool { return cmp.Equal(a, b, comparable) })
}

// TestRouteSequence replaces one route by the next: after each step the kernel holds the last one and nothing else.
func TestRouteSequence(t *testing.T) {
	const v4, v6 = "10.1.0.0/24", "fd00:1::/64"
	mtu := route(v4, via("192.0.2.2", "eth0"))
	mtu.MTU, mtu.Src = 1400, netip.MustParseAddr("192.0.2.1")
	mtu6 := route(v6, via("2001:db8::2", "eth0"))
	mtu6.MTU, mtu6.Src = 1400, netip.MustParseAddr("2001:db8::1")
	cases := []struct {
		name  string
		steps []kernel.Route
	}{
		{"IPv4 gateway, then another", []kernel.Route{route(v4, via("192.0.2.2", "eth0")), route(v4, via("198.51.100.2", "eth1"))}},
		{"IPv6 gateway, then another", []kernel.Route{route(v6, via("2001:db8::2", "eth0")), route(v6, via("2001:db8:1::2", "eth1"))}},
		{"IPv4 the same twice", []kernel.Route{route(v4, via("192.0.2.2", "eth0")), route(v4, via("192.0.2.2", "eth0"))}},
		{"IPv6 the same twice", []kernel.Route{route(v6, via("2001:db8::2", "eth0")), route(v6, via("2001:db8::2", "eth0"))}},
		{"IPv4 ECMP grows, changes, shrinks", []kernel.Route{
			route(v4, via("192.0.2.2", "eth0")),
			route(v4, via("192.0.2.2", "eth0"), via("192.0.2.3", "eth0")),
			route(v4, via("192.0.2.2", "eth0"), via("192.0.2.3", "eth0"), via("198.51.100.2", "eth1")),
			route(v4, via("192.0.2.4", "eth0"), via("198.51.100.3", "eth1")),
			route(v4, via("192.0.2.3", "eth0"), via("192.0.2.4", "eth0")),
			route(v4, via("192.0.2.4", "eth0")),
		}},
		{"IPv6 ECMP grows, changes, shrinks", []kernel.Route{
			route(v6, via("2001:db8::2", "eth0")),
			route(v6, via("2001:db8::2", "eth0"), via("2001:db8::3", "eth0")),
			route(v6, via("2001:db8::2", "eth0"), via("2001:db8::3", "eth0"), via("2001:db8:1::2", "eth1")),
			route(v6, via("2001:db8::4", "eth0"), via("2001:db8:1::3", "eth1")),
			route(v6, via("2001:db8::3", "eth0"), via("2001:db8::4", "eth0")),
			route(v6, via("2001:db8::4", "eth0")),
		}},
		{"IPv4 weights", []kernel.Route{
			route(v4, weighted(via("192.0.2.2", "eth0"), 3), via("192.0.2.3", "eth0")),
			route(v4, via("192.0.2.2", "eth0"), weighted(via("192.0.2.3", "eth0"), 7)),
		}},
		{"IPv6 weights", []kernel.Route{
			route(v6, weighted(via("2001:db8::2", "eth0"), 3), via("2001:db8::3", "eth0")),
			route(v6, via("2001:db8::2", "eth0"), weighted(via("2001:db8::3", "eth0"), 7)),
		}},
		{"IPv4 kinds", []kernel.Route{
			{Dst: netip.MustParsePrefix(v4), Type: kernel.Blackhole},
			route(v4, via("192.0.2.2", "eth0"), via("192.0.2.3", "eth0")),
			{Dst: netip.MustParsePrefix(v4), Type: kernel.Unreachable},
			route(v4, kernel.NextHop{Link: "eth0"}),
			route(v4, onLink("10.1.0.0", "eth0")),
		}},
		{"IPv6 kinds", []kernel.Route{
			{Dst: netip.MustParsePrefix(v6), Type: kernel.Blackhole},
			route(v6, via("2001:db8::2", "eth0"), via("2001:db8::3", "eth0")),
			{Dst: netip.MustParsePrefix(v6), Type: kernel.Unreachable},
			route(v6, kernel.NextHop{Link: "eth0"}),
			route(v6, onLink("fd00:1::", "eth0")),
		}},
		{"IPv4 MTU and source come and go", []kernel.Route{mtu, route(v4, via("192.0.2.2", "eth0")), mtu}},
		{"IPv6 MTU and source come and go", []kernel.Route{mtu6, route(v6, via("2001:db8::2", "eth0")), mtu6}},
		{"IPv4 by way of IPv6", []kernel.Route{
			route(v4, via("2001:db8::2", "eth0")),
			route(v4, via("192.0.2.2", "eth0"), via("2001:db8::2", "eth0")),
		}},
		{"default routes", []kernel.Route{route("0.0.0.0/0", via("192.0.2.2", "eth0")), route("0.0.0.0/0", via("192.0.2.3", "eth0"))}},
		{"IPv6 default routes", []kernel.Route{route("::/0", via("2001:db8::2", "eth0")), route("::/0", via("2001:db8::3", "eth0"))}},
	}
	h := open(t)
	setUp(t, underlay)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			for i, r := range tc.steps {
				slices.SortFunc(r.NextHops, kernel.NextHop.Compare)
				wantNoErrors(t, h.ApplyRoutes(t.Context(), set(r)))
				wantRoutes(t, h, nil, r)
				if t.Failed() {
					t.Fatalf("at step %d, %v", i, r)
				}
			}
			last := tc.steps[len(tc.steps)-1]
			wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(last)))
			wantRoutes(t, h, nil)
			wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(last))) // what is missing is no error
		})
	}
}

func TestRouteDeleteIsByKey(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	metric := func(r kernel.Route, m uint32) kernel.Route { r.Metric = m; return r }
	for _, hops := range [][]kernel.NextHop{
		{via("192.0.2.2", "eth0"), via("192.0.2.3", "eth0")},
		{via("2001:db8::2", "eth0"), via("2001:db8::3", "eth0")},
	} {
		dst := "10.1.0.0/24"
		if hops[0].Gateway.Is6() {
			dst = "fd00:1::/64"
		}
		low, high := metric(route(dst, hops...), 100), metric(route(dst, hops...), 200)
		wantNoErrors(t, h.ApplyRoutes(t.Context(), set(low, high)))
		stale := low
		stale.NextHops = hops[:1] // what the caller last saw
		wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(stale)))
		wantRoutes(t, h, nil, high)
		wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(high)))
	}
}

func TestRoutesLeaveForeignOnesAlone(t *testing.T) {
	h := open(t)
	setUp(t, underlay+`
route add 10.9.0.0/24 via 192.0.2.9
route add 10.9.1.0/24 via 192.0.2.9 proto static
route add 10.9.2.0/24 via 192.0.2.9 proto 84 table 100
route add 10.9.3.0/24 via 10.9.3.0 dev eth1 onlink
-6 route add fd00:9::/64 via 2001:db8::9
-6 route add fd00:9:3::/64 via fd00:9:3:: dev eth1 onlink`)
	before := kept(t, "route show table all") + kept(t, "-6 route show table all")
	wantRoutes(t, h, []string{"eth0"})
	ours := []kernel.Route{route("10.1.0.0/24", via("192.0.2.2", "eth0")), route("fd00:1::/64", via("2001:db8::2", "eth0"))}
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(ours...)))
	wantRoutes(t, h, []string{"eth0"}, ours...)
	foreign := []kernel.Route{route("10.9.0.0/24", via("192.0.2.9", "eth0")), route("10.9.1.0/24"), route("10.9.2.0/24"),
		route("fd00:9::/64", via("2001:db8::9", "eth0"))}
	wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(append(ours, foreign...)...)))
	if diff := cmp.Diff(before, kept(t, "route show table all")+kept(t, "-6 route show table all")); diff != "" {
		t.Errorf("foreign routes changed (-before +after):\n%s", diff)
	}
}

// TestRoutesOfFlannel sees what flanneld wrote (protocol boot, onlink, by way of the subnet's base) as ours on our links, replaces it
// in place and deletes it.
func TestRoutesOfFlannel(t *testing.T) {
	for _, tc := range []struct{ name, ip, first, second string }{
		{"IPv4", "ip", "10.1.0.0/24", "10.2.0.0/24"},
		{"IPv6", "ip -6", "fd00:1::/64", "fd00:2::/64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay)
			var left []kernel.Route
			for _, dst := range []string{tc.first, tc.second} {
				base, _, _ := strings.Cut(dst, "/")
				run(t, tc.ip+" route add "+dst+" via "+base+" dev eth0 onlink")
				left = append(left, route(dst, onLink(base, "eth0")))
			}
			run(t, tc.ip+" route add blackhole "+strings.Replace(tc.first, "1", "7", 1))
			wantRoutes(t, h, []string{"eth0", "absent"}, left...)
			wantRoutes(t, h, []string{"eth1"})
			wantNoErrors(t, h.ApplyRoutes(t.Context(), set(left[0])))
			if out := run(t, tc.ip+" route show "+tc.first); strings.Count(out, "onlink") != 1 || !strings.Contains(out, "proto 84") {
				t.Errorf("after the replacement: %s", out)
			}
			wantRoutes(t, h, []string{"eth0"}, left...)
			wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(left...)))
			wantRoutes(t, h, []string{"eth0"})
		})
	}
}

func TestBadRoutes(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	for _, tc := range []struct {
		name  string
		route kernel.Route
		want  string
	}{
		{"no way", route("10.1.0.0/24"), "needs a next hop"},
		{"empty next hop", route("10.1.0.0/24", kernel.NextHop{}), "needs a gateway or a link"},
		{"blackhole with a way", kernel.Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), Type: kernel.Blackhole,
			NextHops: []kernel.NextHop{via("192.0.2.2", "")}}, "has no next hop"},
		{"not masked", route("10.1.0.1/24", via("192.0.2.2", "eth0")), "masked"},
		{"no destination", kernel.Route{}, "masked"},
		{"unknown type", kernel.Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), Type: 9}, "known type"},
		{"no such link", route("10.1.0.0/24", via("192.0.2.2", "eth9")), `link "eth9": no such device`},
		{"gateway nowhere", route("10.1.0.0/24", via("203.0.113.1", "eth0")), "Nexthop has invalid gateway"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := h.ApplyRoutes(t.Context(), set(tc.route))
			if len(errs) != 1 || errs[0] == nil || !strings.Contains(errs[0].Error(), tc.want) {
				t.Fatalf("have %v, want an error with %q", errs, tc.want)
			}
			wantRoutes(t, h, nil)
		})
	}
}

// A route of the overlay comes beside one that leads to the same subnet over the uplink, as when a node changes its backend.
func TestOnLinkRouteBesideAnotherWay(t *testing.T) {
	for _, dst := range []string{"10.1.0.0/24", "fd00:1::/64"} {
		t.Run(dst, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay)
			base, _, _ := strings.Cut(dst, "/")
			routed := route(dst, via("192.0.2.2", "eth0"))
			if strings.Contains(dst, ":") {
				routed = route(dst, via("2001:db8::2", "eth0"))
			}
			routed.Metric = 32
			tunneled := route(dst, onLink(base, "eth1"))
			other := route(strings.Replace(dst, "1", "7", 1), onLink(strings.Replace(base, "1", "7", 1), "eth1"))
			wantNoErrors(t, h.ApplyRoutes(t.Context(), set(routed)))
			wantNoErrors(t, h.ApplyRoutes(t.Context(), set(other, tunneled)))
			if strings.Contains(dst, ":") {
				tunneled.Metric, other.Metric = 1024, 1024
			}
			wantRoutes(t, h, nil, routed, tunneled, other)
			wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(routed)))
			wantRoutes(t, h, nil, tunneled, other)
		})
	}
}
