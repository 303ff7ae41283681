package kernel

import (
	"slices"
	"strings"
)

// Memo keeps what sources were rendered to, for the promise that a source which did not change yields the same Fragment again. S is
// a source, such as a pointer to a lease that is never changed; R is what it is rendered to. The zero Memo is empty. It must not be
// used concurrently.
//
// It compares pointers where it can: of 20,000 sources of which one changed, all others cost a walk over two arrays. A map in place of
// the arrays costs ten times as much.
type Memo[S comparable, R any] struct {
	bySource []*memoEntry[S, R] // in the order of Renderer.Compare
	byOwner  []*memoEntry[S, R]
}

type memoEntry[S comparable, R any] struct {
	source   S
	owner    string
	rendered R
	gone     bool
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
// not valid any more, and forgets all others. Sources that come sorted by Compare cost least.
func (m *Memo[S, R]) Render(sources []S, r Renderer[S, R]) []R {
	d, sorted := m.compare(sources, r)
	if !sorted {
		sources = slices.Clone(sources)
		slices.SortStableFunc(sources, r.Compare)
		sources = slices.CompactFunc(sources, func(a, b S) bool { return r.Compare(a, b) == 0 })
		d, _ = m.compare(sources, r)
	}
	if r.Valid != nil {
		for _, e := range d.kept {
			if !r.Valid(e.source, e.rendered) {
				e.rendered = r.Render(e.source)
			}
		}
	}
	for i, e := range d.replaced {
		e.source, e.rendered = d.by[i], r.Render(d.by[i])
	}
	for _, e := range d.added {
		e.owner, e.rendered = r.Owner(e.source), r.Render(e.source)
	}
	m.bySource = d.next
	m.file(d)
	rendered := make([]R, len(m.byOwner))
	for i, e := range m.byOwner {
		rendered[i] = e.rendered
	}
	return rendered
}

// memoDiff is what differs between what is remembered and a list of sources.
type memoDiff[S comparable, R any] struct {
	next     []*memoEntry[S, R] // in the order of the sources
	kept     []*memoEntry[S, R] // of next; only when validity is asked for
	replaced []*memoEntry[S, R]
	by       []S // instead of replaced's
	added    []*memoEntry[S, R]
	removed  []*memoEntry[S, R]
}

// compare walks the remembered sources and the new ones side by side. It changes nothing. It returns false when the new ones are not
// sorted; those that are in step with the remembered ones need not be looked at for that.
func (m *Memo[S, R]) compare(sources []S, r Renderer[S, R]) (d memoDiff[S, R], sorted bool) {
	d.next = make([]*memoEntry[S, R], 0, len(sources))
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
			if r.Valid != nil {
				d.kept = append(d.kept, old[0])
			}
		case len(old) > 0 && r.Compare(old[0].source, source) == 0:
			d.replaced, d.by = append(d.replaced, old[0]), append(d.by, source)
		default:
			e := &memoEntry[S, R]{source: source}
			d.added = append(d.added, e)
			d.next = append(d.next, e)
			continue
		}
		d.next = append(d.next, old[0])
		old = old[1:]
	}
	d.removed = append(d.removed, old...)
	return d, true
}

// file puts what was added into its places among the owners and takes out what was removed.
func (m *Memo[S, R]) file(d memoDiff[S, R]) {
	if len(d.added) == 0 && len(d.removed) == 0 {
		return
	}
	byOwner := func(a, b *memoEntry[S, R]) int { return strings.Compare(a.owner, b.owner) }
	for _, e := range d.removed {
		e.gone = true
	}
	filed := make([]*memoEntry[S, R], 0, len(d.next))
	keep := func(part []*memoEntry[S, R]) {
		if len(d.removed) == 0 {
			filed = append(filed, part...)
			return
		}
		for _, e := range part {
			if !e.gone {
				filed = append(filed, e)
			}
		}
	}
	slices.SortFunc(d.added, byOwner)
	rest := m.byOwner
	for _, e := range d.added {
		at, _ := slices.BinarySearchFunc(rest, e, byOwner)
		keep(rest[:at])
		filed = append(filed, e)
		rest = rest[at:]
	}
	keep(rest)
	m.byOwner = filed
}
