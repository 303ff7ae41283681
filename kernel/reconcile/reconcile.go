package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/twill-cni/twill/kernel"
)

// Reconciler makes one kernel hold a desired state. Its methods may be called concurrently: Sync calls wait for each
// other, Observe and Resync never wait for I/O, and what they say while a Sync runs is either taken up by that Sync
// or left for the next one.
type Reconciler struct {
	kernel kernel.Kernel
	tables kernel.Tables
	log    *slog.Logger

	syncing sync.Mutex // held by Sync from beginning to end

	// mu guards the books below and is never held while the kernel is spoken to. Only Sync changes them, apart from
	// dirty and kept, so that Sync itself may read them without it.
	mu         sync.Mutex
	dirty      [kernel.NumKinds]bool // what the kernel holds of the kind must be read again
	links      links
	fdb        *tracker[kernel.FDBKey, kernel.FDBEntry]
	neighbors  *tracker[kernel.NeighborKey, kernel.Neighbor]
	routes     *tracker[kernel.RouteKey, kernel.Route]
	fragments  []*kernel.Fragment // of the last Sync, sorted by owner
	routeLinks map[string]int     // number of desired next hops by link, "" for those that leave it to the kernel

	tableDesired map[string]bool // by name; false: may be there and must not
	tablesDoubt  bool            // Resync was called: the tables' handle must not trust its memory either

	reading     bool // a dump of readingKind is under way
	readingKind kernel.Kind
	kept        []kernel.Event // of readingKind, since the dump began

	warned []Conflict // the conflicts that were last logged; of Sync alone
}

// New returns a Reconciler that knows nothing of the kernel yet: its first Sync reads everything, takes over what is as
// desired, and removes what is ours and is not desired.
func New(k kernel.Kernel, t kernel.Tables, log *slog.Logger) *Reconciler {
	r := &Reconciler{
		kernel:       k,
		tables:       t,
		log:          log,
		links:        links{applied: map[string]kernel.Link{}},
		fdb:          newTracker(kernel.FDBEntry.Key, same[kernel.FDBEntry]),
		neighbors:    newTracker(kernel.Neighbor.Key, same[kernel.Neighbor]),
		routes:       newTracker(kernel.Route.Key, kernel.Route.Equal),
		routeLinks:   map[string]int{},
		tableDesired: map[string]bool{},
	}
	r.setDirty(allKinds...)
	return r
}

func same[V comparable](a, b V) bool { return a == b }

// Sync makes the kernel hold want. It goes on past the failures of single objects; the error joins the first of them
// and the number of the others, and what failed is tried again at the next Sync. Nothing is removed in a Sync that
// could not read all that it had to (the error wraps kernel.ErrStale when the kernel would not hold still).
//
// want.Fragments may be in any order; sorted by Owner it costs least. Work is linear in the fragments that changed
// since the last Sync, plus one comparison of pointers for each fragment, plus a dump of each kind that is dirty. The
// slices of want are not kept, what they point to is.
//
// Neighbours and FDB entries are read from the VXLAN devices among want.Links; on other links they are written, but not
// looked after.
func (r *Reconciler) Sync(ctx context.Context, want kernel.State) (Result, error) {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	p := &pass{Reconciler: r, untrusted: want.KeepStale}
	if err := r.desire(want); err != nil {
		p.failures.add(err)
	}
	p.counts(kernel.KindTable).Desired = len(want.Tables)
	p.run(ctx, want)
	p.conclude()
	return p.result, p.failures.err()
}

// Resync makes the next Sync read everything again, whatever the kernel's notifications said.
func (r *Reconciler) Resync() {
	r.markDirty(allKinds...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tablesDoubt = true
}

// desire enters into the books what is desired from now on.
func (r *Reconciler) desire(want kernel.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links.desired = make(map[string]kernel.Link, len(want.Links))
	for _, l := range want.Links {
		r.links.desired[l.Name] = l
	}
	return r.desireFragments(want.Fragments)
}

// conclude fills in the result.
func (p *pass) conclude() {
	p.mu.Lock()
	defer p.mu.Unlock()
	linkCounts := p.counts(kernel.KindLink)
	linkCounts.Desired = len(p.links.desired)
	for name := range p.links.desired {
		if len(p.links.diff(name)) == 0 {
			linkCounts.Programmed++
		}
	}
	settled := count(p, kernel.KindFDB, p.fdb)
	settled = count(p, kernel.KindNeighbor, p.neighbors) && settled
	settled = count(p, kernel.KindRoute, p.routes) && settled
	settled = settled && len(p.links.stale()) == 0
	p.result.InSync = settled && p.failures.err() == nil && !slices.Contains(p.dirty[:], true)

	slices.SortFunc(p.result.Conflicts, Conflict.compare)
	p.result.Conflicts = slices.Clip(p.result.Conflicts[:min(maxReported, len(p.result.Conflicts))])
	p.report()
}

// count fills in the figures of one kind, and reports whether the kernel holds it as desired.
func count[K comparable, V any](p *pass, kind kernel.Kind, t *tracker[K, V]) bool {
	c := p.counts(kind)
	c.Desired, c.Programmed = t.desired, t.desired
	queue := t.pending()
	for _, e := range queue {
		if e.want != nil {
			c.Programmed--
		}
	}
	for key, rivals := range t.rivals {
		winner := t.entries[key]
		for _, loser := range rivals {
			if t.equal(*winner.want, *loser.want) {
				continue
			}
			c.Conflicts++
			p.result.Conflicts = append(p.result.Conflicts, Conflict{
				Kind: kind, Object: fmt.Sprint(*winner.want), Winner: winner.owner.Owner, Loser: loser.owner.Owner})
		}
	}
	return len(queue) == 0
}

// report logs what changed.
func (p *pass) report() {
	var changes []any
	for kind := range kernel.NumKinds {
		if n := p.counts(kind).Changes; n > 0 {
			changes = append(changes, slog.Int(kind.String(), n))
		}
	}
	if len(changes) > 0 {
		p.log.Info("kernel changed", slog.Group("changes", changes...))
	}
	if !slices.Equal(p.result.Conflicts, p.warned) {
		p.warned = p.result.Conflicts
		for _, c := range p.warned {
			p.log.Warn("two sources want one object", "object", c.Object, "preferred", c.Winner, "ignored", c.Loser)
		}
	}
}
