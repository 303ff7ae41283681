package gobgp

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/twill-cni/twill/bgp"
)

// marks is the set of prefixes in doubt.
type marks struct {
	mu       sync.Mutex
	prefixes map[netip.Prefix]struct{}
	wake     chan struct{} // has a value when prefixes is not empty
}

func newMarks() *marks {
	return &marks{prefixes: make(map[netip.Prefix]struct{}), wake: make(chan struct{}, 1)}
}

func (m *marks) add(prefixes ...netip.Prefix) {
	if len(prefixes) == 0 {
		return
	}
	m.mu.Lock()
	for _, p := range prefixes {
		m.prefixes[p] = struct{}{}
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns the prefixes in the order of the table, and forgets them.
func (m *marks) take() []netip.Prefix {
	m.mu.Lock()
	taken := make([]netip.Prefix, 0, len(m.prefixes))
	for p := range m.prefixes {
		taken = append(taken, p)
	}
	clear(m.prefixes)
	m.mu.Unlock()
	slices.SortFunc(taken, netip.Prefix.Compare)
	return taken
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
		n, found := slices.BinarySearchFunc(table[i:], f.prefix, func(r *bgp.Route, p netip.Prefix) int {
			return r.Prefix.Compare(p)
		})
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
