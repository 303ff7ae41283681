package gobgp

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/twill-cni/twill/bgp"
)

// marks are the prefixes of which events told since they were taken last, each with the route that it has if it had none before; nil puts it in
// doubt.
type marks struct {
	mu       sync.Mutex
	prefixes map[netip.Prefix]*bgp.Route
	wake     chan<- struct{} // of capacity 1; has a value when prefixes is not empty
}

func newMarks(wake chan<- struct{}) *marks {
	return &marks{prefixes: make(map[netip.Prefix]*bgp.Route), wake: wake}
}

// add is told of an event. Two events for one prefix put it in doubt: the second one's route is not all that the prefix has.
func (m *marks) add(p netip.Prefix, fresh *bgp.Route) {
	m.mu.Lock()
	if _, twice := m.prefixes[p]; twice {
		fresh = nil
	}
	m.prefixes[p] = fresh
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns what there is to find out, in the order of the table, and forgets it. A route stands only where the table has none of that prefix.
func (m *marks) take(table []*bgp.Route) []finding {
	m.mu.Lock()
	taken := make([]finding, 0, len(m.prefixes))
	for p, r := range m.prefixes {
		taken = append(taken, finding{prefix: p, route: r})
	}
	clear(m.prefixes)
	m.mu.Unlock()
	slices.SortFunc(taken, func(a, b finding) int { return a.prefix.Compare(b.prefix) })
	for i := range taken {
		if _, known := find(table, taken[i].prefix); known {
			taken[i].route = nil
		}
	}
	return taken
}

// find returns where in the table a prefix is, or would be.
func find(table []*bgp.Route, p netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(table, p, func(r *bgp.Route, p netip.Prefix) int { return r.Prefix.Compare(p) })
}

// finding is what was read about a prefix that was in doubt; a nil route means that there is no path.
type finding struct {
	prefix netip.Prefix
	route  *bgp.Route
}

// merge returns the table with findings put in. Both are sorted. The table is not changed; it is returned itself when nothing new was found.
// Routes that say the same as before stay the same pointers.
func merge(table []*bgp.Route, findings []finding) []*bgp.Route {
	out := make([]*bgp.Route, 0, len(table)+len(findings))
	changed := false
	i := 0
	for _, f := range findings {
		n, found := find(table[i:], f.prefix)
		out = append(out, table[i:i+n]...)
		i += n
		switch {
		case found && f.route.Equal(table[i]):
			out = append(out, table[i])
		case f.route != nil:
			out = append(out, f.route)
			changed = true
		case found:
			changed = true
		}
		if found {
			i++
		}
	}
	if !changed {
		return table
	}
	return append(out, table[i:]...)
}
