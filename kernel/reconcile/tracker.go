package reconcile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// tracker holds for each object of one kind what is desired, who claims it, and what the kernel has. Its three views
// are the ways in which an entry's two pointers can relate:
//
//	desired   want != nil
//	actual    have != nil
//	pending   want != have
//
// Values are shared, not copied: want points into the fragment that claims the object, and have points to the same
// place as soon as the kernel is known to hold an equal value. Only what the kernel holds otherwise is a copy of its
// own. So an object in its proper state costs a map slot and an entry, and whether it is in its proper state is one
// comparison of pointers.
//
// The order of claims and releases carries no meaning: of all fragments that claim a key, the one with the smallest owner
// wins at any time.
type tracker[K comparable, V any] struct {
	key   func(V) K
	equal func(a, b V) bool

	entries map[K]*entry[V]
	rivals  map[K][]claim[V] // the claims that did not win
	queue   []*entry[V]      // every pending entry once; entries that are pending no more may linger
	desired int              // number of entries with want != nil
	dumps   uint32           // number of dumps adopted so far
}

// entry is one object. It is in the tracker as long as it is desired or actual.
type entry[V any] struct {
	claim[V]        // the winner's; zero when nobody claims the object
	have     *V     // what the kernel holds, as far as is known
	seen     uint32 // the last dump that had the object
	queued   bool
}

// claim is one fragment's wish for an object.
type claim[V any] struct {
	owner *kernel.Fragment
	want  *V
}

func newTracker[K comparable, V any](key func(V) K, equal func(a, b V) bool) *tracker[K, V] {
	return &tracker[K, V]{key: key, equal: equal, entries: map[K]*entry[V]{}, rivals: map[K][]claim[V]{}}
}

// claim records that owner wants *v, which must not change any more. A key that one fragment names twice is its first
// value.
func (t *tracker[K, V]) claim(owner *kernel.Fragment, v *V) {
	key := t.key(*v)
	e := t.entry(key)
	challenger := claim[V]{owner, v}
	switch {
	case e.want == nil:
		t.desired++
		e.claim = challenger
	case e.owner == owner || slices.ContainsFunc(t.rivals[key], challenger.sameOwner):
		return
	case owner.Owner < e.owner.Owner:
		t.rivals[key] = append(t.rivals[key], e.claim)
		e.claim = challenger
	default:
		t.rivals[key] = append(t.rivals[key], challenger)
	}
	t.settle(key, e)
}

// release takes back a claim. If it had won, the next best one wins now.
func (t *tracker[K, V]) release(owner *kernel.Fragment, v *V) {
	key := t.key(*v)
	e := t.entries[key]
	if e == nil || e.want == nil {
		return
	}
	rivals := t.rivals[key]
	leaving := claim[V]{owner, v}
	switch {
	case e.owner != owner:
		rivals = slices.DeleteFunc(rivals, leaving.sameOwner)
	case len(rivals) == 0:
		t.desired--
		e.claim = claim[V]{}
	default:
		e.claim = slices.MinFunc(rivals, claim[V].compare)
		rivals = slices.DeleteFunc(rivals, e.sameOwner)
	}
	if len(rivals) == 0 {
		delete(t.rivals, key)
	} else {
		t.rivals[key] = rivals
	}
	t.settle(key, e)
}

func (c claim[V]) sameOwner(o claim[V]) bool { return c.owner == o.owner }

func (c claim[V]) compare(o claim[V]) int { return strings.Compare(c.owner.Owner, o.owner.Owner) }

// adopt makes the dump what the kernel is known to hold.
func (t *tracker[K, V]) adopt(dump []V) {
	t.dumps++
	for _, v := range dump {
		key := t.key(v)
		e := t.entry(key)
		e.seen = t.dumps
		switch {
		case e.have != nil && t.equal(*e.have, v):
			continue
		case e.want != nil && t.equal(*e.want, v):
			e.have = e.want
		default:
			other := v // a copy, so that the dump itself can be freed
			e.have = &other
		}
		t.settle(key, e)
	}
	for key, e := range t.entries {
		if e.have != nil && e.seen != t.dumps {
			e.have = nil
			t.settle(key, e)
		}
	}
}

// assume records that the kernel holds what have points to, or nothing when it is nil, for the object of e.
func (t *tracker[K, V]) assume(e *entry[V], have *V) {
	before := e.have
	e.have = have
	if have != nil && have == e.want {
		return // as desired: the queue drops it by itself
	}
	key := t.key(*cmp.Or(e.want, have, before))
	t.entries[key] = e // it is not there when its deletion was assumed and did not come about
	t.settle(key, e)
}

// agrees reports whether the kernel is known to hold v (or nothing under v's key when it was deleted).
func (t *tracker[K, V]) agrees(v V, deleted bool) bool {
	e := t.entries[t.key(v)]
	if e == nil || e.have == nil {
		return deleted
	}
	return !deleted && t.equal(*e.have, v)
}

// holds reports whether the kernel is known to hold an object of ours under v's key.
func (t *tracker[K, V]) holds(v V) bool {
	e := t.entries[t.key(v)]
	return e != nil && e.have != nil
}

// pending returns the entries that the kernel does not hold as desired, in the order in which they came to differ. The
// slice is the caller's.
func (t *tracker[K, V]) pending() []*entry[V] {
	t.queue = slices.DeleteFunc(t.queue, func(e *entry[V]) bool {
		e.queued = e.want != e.have
		return !e.queued
	})
	if len(t.queue) == 0 {
		t.queue = nil
	}
	return slices.Clone(t.queue)
}

func (t *tracker[K, V]) entry(key K) *entry[V] {
	e := t.entries[key]
	if e == nil {
		e = &entry[V]{}
		t.entries[key] = e
	}
	return e
}

// settle restores what the tracker promises of e after one of its pointers changed.
func (t *tracker[K, V]) settle(key K, e *entry[V]) {
	if e.want != nil && e.have != nil && e.want != e.have && t.equal(*e.want, *e.have) {
		e.have = e.want
	}
	if e.want == nil && e.have == nil {
		delete(t.entries, key)
	}
	if e.want != e.have && !e.queued {
		e.queued = true
		t.queue = append(t.queue, e)
	}
}
