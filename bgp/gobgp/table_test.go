package gobgp

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
)

// Merging findings one by one, all at once or twice gives the same table as a map would, sorted, and keeps the pointers of what did not
// change.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	somewhere := func() netip.Prefix {
		if random.IntN(2) == 0 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), 0, 0}), 16+random.IntN(3)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(random.IntN(4))}), 64+random.IntN(3)).Masked()
	}
	var table []*bgp.Route
	model := make(map[netip.Prefix]*bgp.Route)
	for range 2000 {
		found := make(map[netip.Prefix]*bgp.Route)
		for range random.IntN(5) {
			p := somewhere()
			switch random.IntN(3) {
			case 0:
				found[p] = nil
			default:
				found[p] = &bgp.Route{Prefix: p, NextHops: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(3))})}}
			}
		}
		var findings []finding
		for p, r := range found {
			findings = append(findings, finding{p, r})
		}
		slices.SortFunc(findings, func(a, b finding) int { return a.prefix.Compare(b.prefix) })

		changed := false
		for p, r := range found {
			old := model[p]
			switch {
			case r == nil && old != nil:
				delete(model, p)
				changed = true
			case r != nil && !r.Equal(old):
				model[p] = r
				changed = true
			}
		}
		before := slices.Clone(table)
		next := merge(table, findings)
		if !slices.Equal(before, table) {
			t.Fatal("the old table was changed")
		}
		if !changed && len(table) > 0 && &next[0] != &table[0] {
			t.Fatal("nothing changed, but the table is another one")
		}
		table = next
		if twice := merge(table, findings); len(table) > 0 && &twice[0] != &table[0] {
			t.Fatal("the same findings again changed the table")
		}
		want := make([]*bgp.Route, 0, len(model))
		for _, r := range model {
			want = append(want, r)
		}
		slices.SortFunc(want, func(a, b *bgp.Route) int { return a.Prefix.Compare(b.Prefix) })
		if !slices.Equal(want, table) {
			t.Fatalf("table (-want +got):\n%s", cmp.Diff(want, table, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
		}
	}
}

func TestMarks(t *testing.T) {
	m := newMarks()
	m.add()
	select {
	case <-m.wake:
		t.Error("woken by nothing")
	default:
	}
	m.add(prefix("fd00::/64"), prefix("10.0.0.0/16"), prefix("10.0.0.0/8"))
	m.add(prefix("10.0.0.0/8"))
	<-m.wake
	want := []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.0.0.0/16"), prefix("fd00::/64")}
	if got := m.take(); !slices.Equal(got, want) {
		t.Errorf("took %v, want %v", got, want)
	}
	if got := m.take(); len(got) != 0 {
		t.Errorf("took %v again", got)
	}
}
