//go:build linux

package linux

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
)

// overlays are the VXLAN devices of a dual-stack node.
const overlays = `
link add flannel.1 address 02:00:00:00:00:01 type vxlan id 1 dstport 8472 nolearning local 192.0.2.1 dev eth0
link add flannel-v6.1 address 02:00:00:00:00:02 type vxlan id 2 dstport 8472 nolearning local 2001:db8::1 dev eth0
addr add 10.5.0.0/32 dev flannel.1
addr add fd00:5::/128 dev flannel-v6.1 nodad
link set flannel.1 up
link set flannel-v6.1 up`

func neighbor(link, addr, mac string) kernel.Neighbor {
	return kernel.Neighbor{Link: link, IP: netip.MustParseAddr(addr), MAC: mustMAC(mac)}
}

func fdb(link, mac, dst string) kernel.FDBEntry {
	return kernel.FDBEntry{Link: link, MAC: mustMAC(mac), Dst: netip.MustParseAddr(dst)}
}

func mustMAC(s string) kernel.MAC {
	mac, err := kernel.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return mac
}

func wantNeighbors(t *testing.T, h *Handle, links []string, want ...kernel.Neighbor) {
	t.Helper()
	got, err := h.Neighbors(t.Context(), links)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "neighbors", want, got, func(a, b kernel.Neighbor) bool { return a == b })
}

func wantFDB(t *testing.T, h *Handle, links []string, want ...kernel.FDBEntry) {
	t.Helper()
	got, err := h.FDB(t.Context(), links)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "FDB", want, got, func(a, b kernel.FDBEntry) bool { return a == b })
}

// wantSame compares two lists in any order.
func wantSame[T fmt.Stringer](t *testing.T, what string, want, got []T, equal func(a, b T) bool) {
	t.Helper()
	want, got = byText(want), byText(got)
	if slices.EqualFunc(want, got, equal) {
		return
	}
	if len(want)+len(got) > 2000 { // cmp takes minutes
		t.Errorf("%s: have %d, want %d, or they differ", what, len(got), len(want))
		return
	}
	t.Errorf("%s (-want +got):\n%s", what, cmp.Diff(want, got, comparable))
}

// byText returns the list sorted by what it prints as.
func byText[T fmt.Stringer](list []T) []T {
	text := make(map[string][]T, len(list))
	for _, v := range list {
		text[v.String()] = append(text[v.String()], v)
	}
	sorted := make([]T, 0, len(list))
	for _, key := range slices.Sorted(maps.Keys(text)) {
		sorted = append(sorted, text[key]...)
	}
	return sorted
}

func TestNeighbors(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays+`
neigh add 192.0.2.77 lladdr 02:77:00:00:00:00 dev eth0 nud permanent
neigh add 10.5.7.0 lladdr 02:77:00:00:00:01 dev flannel.1 nud reachable
neigh add proxy 10.5.8.0 dev flannel.1
neigh add 10.5.9.0 lladdr 02:77:00:00:00:02 dev flannel.1 nud permanent`)
	both := []string{"flannel.1", "flannel-v6.1", "absent", "flannel.1"}
	left := neighbor("flannel.1", "10.5.9.0", "02:77:00:00:00:02")
	wantNeighbors(t, h, both, left)

	a, b := neighbor("flannel.1", "10.5.1.0", "02:01:00:00:00:00"), neighbor("flannel-v6.1", "fd00:5:1::", "02:01:00:00:00:06")
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(a, b)))
	wantNeighbors(t, h, both, left, a, b)
	wantNeighbors(t, h, []string{"flannel-v6.1"}, b)
	if out := ip(t, "neigh show 10.5.1.0 dev flannel.1"); !strings.Contains(out, "PERMANENT proto 84") {
		t.Errorf("the neighbour does not bear our protocol: %s", out)
	}

	a.MAC, b.MAC, left.MAC = mustMAC("02:02:00:00:00:00"), mustMAC("02:02:00:00:00:06"), mustMAC("02:02:00:00:00:07")
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(a, b, left)))
	wantNeighbors(t, h, both, left, a, b)

	gone := neighbor("absent", "10.5.1.0", "02:01:00:00:00:00")
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), remove(a, b, left, gone)))
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), remove(a, b, left, gone)))
	wantNeighbors(t, h, both)
	if out := ip(t, "neigh show dev eth0"); !strings.Contains(out, "192.0.2.77") {
		t.Errorf("the foreign neighbour is gone: %s", out)
	}
}

func TestFDB(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays+`
link add br0 type bridge
link set peer1 master br0`)
	run(t, "bridge fdb add 02:88:00:00:00:00 dev peer1 master static")
	run(t, "bridge fdb add 02:88:00:00:00:01 dev peer1 self permanent")
	run(t, "bridge fdb append 02:99:00:00:00:00 dev flannel.1 dst 192.0.2.99 self permanent")
	foreign := run(t, "bridge fdb show dev peer1")
	both := []string{"flannel.1", "flannel-v6.1", "absent"}
	left := fdb("flannel.1", "02:99:00:00:00:00", "192.0.2.99")
	wantFDB(t, h, both, left)

	a, b := fdb("flannel.1", "02:01:00:00:00:00", "192.0.2.11"), fdb("flannel-v6.1", "02:01:00:00:00:06", "2001:db8::11")
	wantNoErrors(t, h.ApplyFDB(t.Context(), set(a, b)))
	wantFDB(t, h, both, left, a, b)

	for _, last := range []string{"2", "3", "3"} { // a replacement leaves exactly one remote
		a.Dst, b.Dst = netip.MustParseAddr("192.0.2."+last), netip.MustParseAddr("2001:db8::"+last)
		wantNoErrors(t, h.ApplyFDB(t.Context(), set(b, a)))
		wantFDB(t, h, both, left, a, b)
	}

	stale := a
	stale.Dst = netip.MustParseAddr("192.0.2.200") // what the caller last saw
	gone := fdb("absent", "02:01:00:00:00:00", "192.0.2.11")
	wantNoErrors(t, h.ApplyFDB(t.Context(), remove(stale, b, left, gone)))
	wantNoErrors(t, h.ApplyFDB(t.Context(), remove(stale, b, left, gone)))
	wantFDB(t, h, both)
	if diff := cmp.Diff(foreign, run(t, "bridge fdb show dev peer1")); diff != "" {
		t.Errorf("foreign entries changed:\n%s", diff)
	}
}

// TestFDBDefaultRemotes removes what a device made by hand brings along: an all-zero MAC with several remotes.
func TestFDBDefaultRemotes(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	run(t, "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.3 self permanent")
	run(t, "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.4 self permanent")
	found, err := h.FDB(t.Context(), []string{"flannel.1"})
	if err != nil || len(found) != 2 {
		t.Fatalf("have %v, %v; want both remotes", found, err)
	}
	wantNoErrors(t, h.ApplyFDB(t.Context(), remove(found...)))
	wantFDB(t, h, []string{"flannel.1"})
}

func TestBadEntries(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	for _, tc := range []struct {
		name  string
		apply func() []error
		want  string
	}{
		{"FDB of the other family", func() []error {
			return h.ApplyFDB(t.Context(), set(fdb("flannel.1", "02:01:00:00:00:00", "2001:db8::11")))
		}, "set fdb 02:01:00:00:00:00 dev flannel.1 dst 2001:db8::11: address family not supported"},
		{"FDB of a multicast MAC", func() []error {
			return h.ApplyFDB(t.Context(), set(fdb("flannel.1", "03:01:00:00:00:00", "192.0.2.11")))
		}, "unicast"},
		{"FDB without a destination", func() []error {
			return h.ApplyFDB(t.Context(), set(kernel.FDBEntry{Link: "flannel.1", MAC: mustMAC("02:01:00:00:00:00")}))
		}, "destination"},
		{"FDB on no link", func() []error {
			return h.ApplyFDB(t.Context(), set(fdb("absent", "02:01:00:00:00:00", "192.0.2.11")))
		}, `link "absent": no such device`},
		{"FDB on a link that has none", func() []error {
			return h.ApplyFDB(t.Context(), set(fdb("", "02:01:00:00:00:00", "192.0.2.11")))
		}, "1 to 15 bytes"},
		{"neighbour without an address", func() []error {
			return h.ApplyNeighbors(t.Context(), set(kernel.Neighbor{Link: "flannel.1"}))
		}, "no address"},
		{"name too long", func() []error {
			return h.ApplyNeighbors(t.Context(), set(neighbor("a-name-of-sixteen", "10.5.1.0", "02:01:00:00:00:00")))
		}, "1 to 15 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := tc.apply()
			if len(errs) != 1 || errs[0] == nil || !strings.Contains(errs[0].Error(), tc.want) {
				t.Fatalf("have %v, want an error with %q", errs, tc.want)
			}
		})
	}
}
