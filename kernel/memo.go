package kernel

import (
	"slices"
	"strings"
)

// Memo keeps what sources were rendered to, for the promise that a source which did not change yields the same Fragment again. S is
// a source, such as a pointer to a lease that is never changed; R is what it is rendered to. The zero Memo is empty. It must not be
// used concurrently.
//
// It compares pointers where it can, and looks at nothing behind them that did not change: of 20,000 sources of which one changed, all
// others cost a walk over two arrays, a fraction of a millisecond. A map in place of the arrays, or a look at each source, costs ten times as
// much, in cache misses.
type Memo[S comparable, R any] struct {
	bySource []memoSource[S, R] // in the order of Renderer.Compare
	byOwner  []memoOwner[S, R]

	spare    []memoSource[S, R] // an array to use again, as is that of rendered
	rendered []R
}

type memoSource[S comparable, R any] struct {
	source S
	entry  *memoEntry[S, R]
}

type memoOwner[S comparable, R any] struct {
	rendered R
	entry    *memoEntry[S, R]
}

type memoEntry[S comparable, R any] struct {
	source S
	owner  string
	gone   bool
}

// Renderer renders the sources of a Memo.
type Renderer[S comparable, R any] struct {
	// Compare orders sources. Those that it calls equal take each other's place from one call of Render to the next; of two in one call, the
	// first counts.
	Compare func(a, b S) int
	Owner   func(S) string // the same for sources that are equal, and different for all others
	Render  func(S) R
	Valid   func(S, R) bool // whether what S was rendered to before still holds; nil: it does
}

// Render returns what the sources are rendered to, sorted by owner. It renders those that it does not remember, or whose rendering is
// not valid any more, and forgets all others. Sources that come sorted by Compare cost least. The result is valid until the next call.
func (m *Memo[S, R]) Render(sources []S, r Renderer[S, R]) []R {
	d, sorted := m.compare(sources, r)
	if !sorted {
		sources = slices.Clone(sources)
		slices.SortStableFunc(sources, r.Compare)
		sources = slices.CompactFunc(sources, func(a, b S) bool { return r.Compare(a, b) == 0 })
		d, _ = m.compare(sources, r)
	}
	if r.Valid != nil {
		for i, o := range m.byOwner {
			if !r.Valid(o.entry.source, o.rendered) {
				m.byOwner[i].rendered = r.Render(o.entry.source)
			}
		}
	}
	for _, k := range d.replaced {
		k.entry.source = k.source
		m.byOwner[m.at(k.entry)].rendered = r.Render(k.source)
	}
	for _, k := range d.added {
		k.entry.owner = r.Owner(k.source)
	}
	clear(m.bySource) // or the spare array would keep what is gone alive
	m.spare, m.bySource = m.bySource[:0], d.next
	m.file(d, r.Render)
	clear(m.rendered)
	m.rendered = m.rendered[:0]
	for i := range m.byOwner {
		m.rendered = append(m.rendered, m.byOwner[i].rendered)
	}
	return m.rendered
}

// at returns the place of an entry among the owners.
func (m *Memo[S, R]) at(e *memoEntry[S, R]) int {
	at, _ := slices.BinarySearchFunc(m.byOwner, e.owner, memoOwner[S, R].compare)
	return at
}

func (o memoOwner[S, R]) compare(owner string) int { return strings.Compare(o.entry.owner, owner) }

// memoDiff is what differs between what is remembered and a list of sources.
type memoDiff[S comparable, R any] struct {
	next     []memoSource[S, R] // in the order of the sources
	replaced []memoSource[S, R] // those that took another one's place
	added    []memoSource[S, R]
	removed  []memoSource[S, R]
}

// compare walks the remembered sources and the new ones side by side. It changes nothing but the spare array. It returns false when the new ones are not
// sorted; those that are in step with the remembered ones need not be looked at for that.
func (m *Memo[S, R]) compare(sources []S, r Renderer[S, R]) (d memoDiff[S, R], sorted bool) {
	d.next = slices.Grow(m.spare[:0], len(sources))
	old, inStep := m.bySource, false
	for j, source := range sources {
		same := len(old) > 0 && old[0].source == source
		if !(same && inStep) && j > 0 && r.Compare(sources[j-1], source) >= 0 {
			return d, false
		}
		for !same && len(old) > 0 && r.Compare(old[0].source, source) < 0 {
			d.removed = append(d.removed, old[0])
			old = old[1:]
			same = len(old) > 0 && old[0].source == source
		}
		inStep = same
		switch {
		case same:
			d.next = append(d.next, old[0])
			old = old[1:]
		case len(old) > 0 && r.Compare(old[0].source, source) == 0:
			d.replaced = append(d.replaced, memoSource[S, R]{source, old[0].entry})
			d.next = append(d.next, memoSource[S, R]{source, old[0].entry})
			old = old[1:]
		default:
			d.added = append(d.added, memoSource[S, R]{source, &memoEntry[S, R]{source: source}})
			d.next = append(d.next, d.added[len(d.added)-1])
		}
	}
	d.removed = append(d.removed, old...)
	return d, true
}

// file puts what was added into its places among the owners and takes out what was removed.
func (m *Memo[S, R]) file(d memoDiff[S, R], render func(S) R) {
	if len(d.added) == 0 && len(d.removed) == 0 {
		return
	}
	for _, k := range d.removed {
		k.entry.gone = true
	}
	filed := make([]memoOwner[S, R], 0, len(d.next))
	keep := func(part []memoOwner[S, R]) {
		if len(d.removed) == 0 {
			filed = append(filed, part...)
			return
		}
		for _, o := range part {
			if !o.entry.gone {
				filed = append(filed, o)
			}
		}
	}
	slices.SortFunc(d.added, func(a, b memoSource[S, R]) int { return strings.Compare(a.entry.owner, b.entry.owner) })
	rest := m.byOwner
	for _, k := range d.added {
		at, _ := slices.BinarySearchFunc(rest, k.entry.owner, memoOwner[S, R].compare)
		keep(rest[:at])
		filed = append(filed, memoOwner[S, R]{render(k.source), k.entry})
		rest = rest[at:]
	}
	keep(rest)
	m.byOwner = filed
}
