package reconcile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// changed is what differs between two lists of fragments. A source that changed is in both lists, with its old and
// its new fragment.
type changed struct {
	removed, added []*kernel.Fragment
}

// compareFragments walks two lists side by side. Both must be sorted by owner, without duplicates; it returns false when
// the new one is not. A fragment that is in both is passed over without being looked into, so that 20,000 unchanged ones
// cost a walk over two arrays of pointers.
func compareFragments(old, new []*kernel.Fragment) (changed, bool) {
	var c changed
	i := 0
	inStep := false // the fragment before was in both lists, so its order was checked when it came
	for j := 0; j < len(new); {
		same := i < len(old) && old[i] == new[j]
		if !(same && inStep) && j > 0 && new[j-1].Owner >= new[j].Owner {
			return changed{}, false
		}
		inStep = same
		switch {
		case same:
			i, j = i+1, j+1
		case i == len(old) || old[i].Owner > new[j].Owner:
			c.added = append(c.added, new[j])
			j++
		case old[i].Owner < new[j].Owner:
			c.removed = append(c.removed, old[i])
			i++
		default:
			c.removed = append(c.removed, old[i])
			c.added = append(c.added, new[j])
			i, j = i+1, j+1
		}
	}
	c.removed = append(c.removed, old[i:]...)
	return c, true
}

// sortFragments returns the fragments sorted by owner, each one once. Of different fragments with one owner, which no
// State should have, the one whose text is smaller stays, whatever the order in which they came; the owners concerned
// are returned.
func sortFragments(fragments []*kernel.Fragment) (sorted []*kernel.Fragment, ambiguous []string) {
	sorted = slices.Clone(fragments)
	slices.SortFunc(sorted, func(a, b *kernel.Fragment) int {
		if a == b {
			return 0
		}
		if c := cmp.Compare(a.Owner, b.Owner); c != 0 {
			return c
		}
		return cmp.Compare(fmt.Sprint(*a), fmt.Sprint(*b))
	})
	sorted = slices.CompactFunc(sorted, func(a, b *kernel.Fragment) bool {
		if a.Owner == b.Owner && a != b && !slices.Contains(ambiguous, a.Owner) {
			ambiguous = append(ambiguous, a.Owner)
		}
		return a.Owner == b.Owner
	})
	return sorted, ambiguous
}

// desireFragments brings the trackers in line with what is desired now. r.mu must be held.
func (r *Reconciler) desireFragments(fragments []*kernel.Fragment) error {
	var ambiguous []string
	c, ok := compareFragments(r.fragments, fragments)
	if !ok {
		fragments, ambiguous = sortFragments(fragments)
		c, _ = compareFragments(r.fragments, fragments)
	}
	for _, f := range c.removed {
		r.release(f)
	}
	for _, f := range c.added {
		r.claim(f)
	}
	r.fragments = append(r.fragments[:0], fragments...)
	clear(r.fragments[len(fragments):cap(r.fragments)]) // or the array would keep removed fragments alive

	if len(ambiguous) > 0 {
		return fmt.Errorf("%d owners have more than one fragment, %q among them; one of each was used", len(ambiguous), ambiguous[0])
	}
	return nil
}

func (r *Reconciler) claim(f *kernel.Fragment) {
	for i := range f.FDB {
		r.fdb.claim(f, &f.FDB[i])
	}
	for i := range f.Neighbors {
		r.neighbors.claim(f, &f.Neighbors[i])
	}
	for i := range f.Routes {
		r.routes.claim(f, &f.Routes[i])
		for _, hop := range f.Routes[i].NextHops {
			r.routeLinks[hop.Link]++
		}
	}
}

func (r *Reconciler) release(f *kernel.Fragment) {
	for i := range f.FDB {
		r.fdb.release(f, &f.FDB[i])
	}
	for i := range f.Neighbors {
		r.neighbors.release(f, &f.Neighbors[i])
	}
	for i := range f.Routes {
		r.routes.release(f, &f.Routes[i])
		for _, hop := range f.Routes[i].NextHops {
			if r.routeLinks[hop.Link]--; r.routeLinks[hop.Link] == 0 {
				delete(r.routeLinks, hop.Link)
			}
		}
	}
}
