//go:build linux

package linux

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
)

func TestUnderlayIsWhatOthersRouted(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(route("10.1.0.0/24", via("192.0.2.2", "eth0")), route("fd00:1::/64", via("2001:db8::2", "eth0")))))
	ip(t, "route add default via 192.0.2.254 metric 100")
	ip(t, "route add 203.0.113.0/24 nexthop via 192.0.2.253 nexthop via 198.51.100.253")
	ip(t, "route add blackhole 203.0.113.128/25")
	ip(t, "route add 203.0.113.0/25 via 192.0.2.253 table 7")
	ip(t, "-6 route add default via 2001:db8::fe")

	got, err := h.Underlay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i].Src = netip.Addr{} // the kernel's choice for a connected network
	}
	defaultRoute := route("0.0.0.0/0", via("192.0.2.254", "eth0"))
	defaultRoute.Metric = 100
	ipv6 := func(metric uint32, r kernel.Route) kernel.Route { r.Metric = metric; return r }
	want := []kernel.Route{
		defaultRoute,
		route("192.0.2.0/24", kernel.NextHop{Link: "eth0"}),
		route("198.51.100.0/24", kernel.NextHop{Link: "eth1"}),
		route("203.0.113.0/24", weighted(via("192.0.2.253", "eth0"), 0), weighted(via("198.51.100.253", "eth1"), 0)),
		ipv6(1024, route("::/0", via("2001:db8::fe", "eth0"))),
		ipv6(256, route("2001:db8::/64", kernel.NextHop{Link: "eth0"})),
		ipv6(256, route("2001:db8:1::/64", kernel.NextHop{Link: "eth1"})),
	}
	byKey := func(a, b kernel.Route) int { return a.Dst.Compare(b.Dst) }
	slices.SortFunc(got, byKey)
	slices.SortFunc(want, byKey)
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Error(diff)
	}
}
