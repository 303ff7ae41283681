package kernel

import (
	"slices"
	"strings"
)

// Memo keeps what sources were rendered to, for the promise that a source which did not change yields the same Fragment again. S is
// a source, such as a pointer to a lease that is never changed; R is what it is rendered to. The zero Memo is empty. It must not be
// used concurrently.
type Memo[S comparable, R any] struct {
	turn    uint64 // grows with each call of Render
	entries map[S]*memoEntry[S, R]
	sorted  []*memoEntry[S, R] // by owner
}

type memoEntry[S comparable, R any] struct {
	source   S
	owner    string
	rendered R
	turn     uint64 // in which the source was seen last
}

// Renderer renders the sources of a Memo.
type Renderer[S comparable, R any] struct {
	Owner  func(S) string // unique among the sources of one call of Render; asked once for each source
	Render func(S) R
	Valid  func(S, R) bool // whether what S was rendered to before still holds; nil: it does
}

// Render returns what the sources are rendered to, sorted by owner. It renders those that it does not remember, or whose rendering is
// not valid any more, and forgets all others. Beyond that the cost is a look at each source.
func (m *Memo[S, R]) Render(sources []S, r Renderer[S, R]) []R {
	if m.entries == nil {
		m.entries = make(map[S]*memoEntry[S, R], len(sources))
	}
	m.turn++
	var fresh []*memoEntry[S, R]
	for _, source := range sources {
		e := m.entries[source]
		switch {
		case e == nil:
			e = &memoEntry[S, R]{source: source, owner: r.Owner(source), rendered: r.Render(source)}
			m.entries[source] = e
			fresh = append(fresh, e)
		case r.Valid != nil && !r.Valid(source, e.rendered):
			e.rendered = r.Render(source)
		}
		e.turn = m.turn
	}
	m.merge(fresh)
	rendered := make([]R, len(m.sorted))
	for i, e := range m.sorted {
		rendered[i] = e.rendered
	}
	return rendered
}

// merge drops the entries of sources that are gone and puts the fresh ones in their places. It costs a walk, where sorting anew would
// cost more than everything else that one changed source causes.
func (m *Memo[S, R]) merge(fresh []*memoEntry[S, R]) {
	byOwner := func(a, b *memoEntry[S, R]) int { return strings.Compare(a.owner, b.owner) }
	slices.SortFunc(fresh, byOwner)
	sorted := make([]*memoEntry[S, R], 0, len(m.entries))
	for _, e := range m.sorted {
		if e.turn != m.turn {
			delete(m.entries, e.source)
			continue
		}
		for len(fresh) > 0 && byOwner(fresh[0], e) < 0 {
			sorted = append(sorted, fresh[0])
			fresh = fresh[1:]
		}
		sorted = append(sorted, e)
	}
	m.sorted = append(sorted, fresh...)
}
