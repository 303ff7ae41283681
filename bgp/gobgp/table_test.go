package gobgp

import (
	"maps"
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
	wake := make(chan struct{}, 1)
	m := newMarks(wake)
	route := func(p string, nextHop string) *bgp.Route {
		return &bgp.Route{Prefix: prefix(p), NextHops: []netip.Addr{addr(nextHop)}}
	}
	table := []*bgp.Route{route("10.0.0.0/16", "192.0.2.1")}
	m.add(prefix("fd00::/64"), nil)
	m.add(prefix("10.0.0.0/16"), route("10.0.0.0/16", "192.0.2.2"))
	m.add(prefix("10.0.0.0/8"), route("10.0.0.0/8", "192.0.2.1"))
	m.add(prefix("10.0.0.0/8"), route("10.0.0.0/8", "192.0.2.2"))
	m.add(prefix("10.1.0.0/16"), route("10.1.0.0/16", "192.0.2.2"))
	<-wake
	want := []finding{
		{prefix: prefix("10.0.0.0/8")},  // two events
		{prefix: prefix("10.0.0.0/16")}, // it has a route already
		{prefix: prefix("10.1.0.0/16"), route: route("10.1.0.0/16", "192.0.2.2")},
		{prefix: prefix("fd00::/64")}, // the event did not tell
	}
	same := func(a, b finding) bool { return a.prefix == b.prefix && a.route.Equal(b.route) }
	if got := m.take(table); !slices.EqualFunc(got, want, same) {
		t.Errorf("took %v, want %v", got, want)
	}
	if got := m.take(table); len(got) != 0 {
		t.Errorf("took %v again", got)
	}
}

// Whatever happens to a prefix, however late and in however many steps the events are taken, the table ends with what the library has.
func TestMarksCatchUp(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		w := world{prefix: prefix("10.0.0.0/16"), paths: map[byte]bool{}, marks: newMarks(make(chan struct{}, 1))}
		for range random.IntN(12) {
			w.change(byte(random.IntN(3)))
			for range random.IntN(3) {
				if random.IntN(2) == 0 {
					w.deliver()
				} else {
					w.take()
				}
			}
		}
		for len(w.late) > 0 {
			w.deliver()
			if random.IntN(2) == 0 {
				w.take()
			}
		}
		w.take()
		var got *bgp.Route
		if len(w.table) > 0 {
			got = w.table[0]
		}
		if want := w.read(); !want.Equal(got) {
			t.Fatalf("the table has %v, the library %v", got, want)
		}
	}
}

// world is a library with one prefix, and a table that follows it.
type world struct {
	prefix netip.Prefix
	paths  map[byte]bool // of the library
	late   []*bgp.Route  // events that are on their way; nil: a path went
	marks  *marks
	table  []*bgp.Route
}

func (w *world) change(path byte) {
	if w.paths[path] {
		delete(w.paths, path)
		w.late = append(w.late, nil)
		return
	}
	w.paths[path] = true
	w.late = append(w.late, w.route(path))
}

func (w *world) route(paths ...byte) *bgp.Route {
	r := &bgp.Route{Prefix: w.prefix}
	for _, i := range paths {
		r.NextHops = append(r.NextHops, netip.AddrFrom4([4]byte{192, 0, 2, i}))
	}
	return r
}

// read is what the library says of the prefix.
func (w *world) read() *bgp.Route {
	if len(w.paths) == 0 {
		return nil
	}
	return w.route(slices.Sorted(maps.Keys(w.paths))...)
}

func (w *world) deliver() {
	if len(w.late) > 0 {
		w.marks.add(w.prefix, w.late[0])
		w.late = w.late[1:]
	}
}

func (w *world) take() {
	findings := w.marks.take(w.table)
	for i := range findings {
		if findings[i].route == nil {
			findings[i].route = w.read()
		}
	}
	w.table = merge(w.table, findings)
}
