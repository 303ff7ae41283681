package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// batch is how many changes are handed to the kernel at a time: enough to fill its socket buffers, few enough that a
// cancelled context is noticed soon and the lists of changes stay small.
const batch = 2048

// pass is one run of Sync through the phases.
type pass struct {
	*Reconciler
	result    Result
	failures  failures
	untrusted bool                      // a dump failed, or the state is not complete: what looks stale may only be unknown
	broken    map[string]bool           // desired links on which nothing can be programmed
	failed    map[*kernel.Fragment]bool // fragments that miss something which their other objects rest on
}

// run goes through the phases. The state is desired already.
func (p *pass) run(ctx context.Context, want kernel.State) {
	if !p.syncLinks(ctx) {
		return
	}
	fdb := phase[kernel.FDBKey, kernel.FDBEntry]{kernel.KindFDB, p.fdb, p.kernel.ApplyFDB}
	neighbors := phase[kernel.NeighborKey, kernel.Neighbor]{kernel.KindNeighbor, p.neighbors, p.kernel.ApplyNeighbors}
	routes := phase[kernel.RouteKey, kernel.Route]{kernel.KindRoute, p.routes, p.kernel.ApplyRoutes}

	read(ctx, p, fdb, p.kernel.FDB)
	read(ctx, p, neighbors, p.kernel.Neighbors)
	read(ctx, p, routes, p.kernel.Routes)

	upsert(ctx, p, fdb, func(e kernel.FDBEntry) bool { return p.broken[e.Link] })
	upsert(ctx, p, neighbors, func(n kernel.Neighbor) bool { return p.broken[n.Link] })
	upsert(ctx, p, routes, func(r kernel.Route) bool { return slices.ContainsFunc(r.NextHops, p.onBroken) })

	p.syncTables(ctx, want)
	if p.untrusted {
		return
	}
	remove(ctx, p, routes, func(kernel.RouteKey) bool { return false })
	gateways := p.gatewaysInUse()
	remove(ctx, p, neighbors, func(k kernel.NeighborKey) bool { return gateways[k] })
	macs := p.macsInUse()
	remove(ctx, p, fdb, func(k kernel.FDBKey) bool { return macs[k] })
	p.deleteStaleLinks(ctx)
}

func (p *pass) onBroken(h kernel.NextHop) bool { return p.broken[h.Link] }

func (p *pass) counts(kind kernel.Kind) *Counts { return &p.result.Kinds[kind] }

// fail records an error. What the kernel holds of that kind is uncertain now, so it is read again at the next Sync.
func (p *pass) fail(kind kernel.Kind, err error) {
	p.counts(kind).Failures++
	p.failures.add(err)
	p.markDirty(kind)
}

// phase is what the generic functions need to know of one kind.
type phase[K comparable, V any] struct {
	kind    kernel.Kind
	tracker *tracker[K, V]
	apply   func(context.Context, []kernel.Change[V]) []error
}

// read dumps the objects of a kind that is dirty. Notifications that come meanwhile may be older or newer than what
// the dump says of the same object: they are kept and compared with it afterwards.
//
// When the dump fails, nothing is known to be there any more, so all that is desired is written again. Believing the
// old picture instead would let routes go to neighbours that went away together with their link.
func read[K comparable, V any](ctx context.Context, p *pass, ph phase[K, V], dump func(context.Context, []string) ([]V, error)) {
	if !p.takeDirty(ph.kind) {
		return
	}
	p.startReading(ph.kind)
	all, err := dump(ctx, p.links.overlay())
	if err != nil {
		all = nil
	}
	p.finishReading(func() { ph.tracker.adopt(all) })
	if err != nil {
		p.untrusted = true
		p.fail(ph.kind, fmt.Errorf("read %s entries: %w", ph.kind, err))
	}
}

// upsert makes the desired objects that are not there or differ. Those that rest on something broken, or that belong
// to a fragment which misses something since an earlier phase, are held back.
func upsert[K comparable, V any](ctx context.Context, p *pass, ph phase[K, V], broken func(V) bool) {
	var ready, held []*entry[V]
	for _, e := range pending(p, ph) {
		switch {
		case e.want == nil:
		case p.failed[e.owner] || broken(*e.want):
			held = append(held, e)
		default:
			ready = append(ready, e)
		}
	}
	p.counts(ph.kind).Held += len(held)
	for _, e := range slices.Concat(held, change(ctx, p, ph, ready)) {
		p.missing(e.owner)
		for _, rival := range ph.tracker.rivals[ph.tracker.key(*e.want)] {
			p.missing(rival.owner)
		}
	}
}

// remove takes away the objects that nobody desires, but not those that are in use.
func remove[K comparable, V any](ctx context.Context, p *pass, ph phase[K, V], inUse func(K) bool) {
	var ready []*entry[V]
	for _, e := range pending(p, ph) {
		switch {
		case e.want != nil:
		case inUse(ph.tracker.key(*e.have)):
			p.counts(ph.kind).Held++
		default:
			ready = append(ready, e)
		}
	}
	change(ctx, p, ph, ready)
}

// change brings the entries to what they should be and returns those that failed.
func change[K comparable, V any](ctx context.Context, p *pass, ph phase[K, V], entries []*entry[V]) (failed []*entry[V]) {
	for len(entries) > 0 {
		if err := ctx.Err(); err != nil {
			p.fail(ph.kind, fmt.Errorf("%d %s changes not tried: %w", len(entries), ph.kind, err))
			return append(failed, entries...)
		}
		n := min(batch, len(entries))
		failed = append(failed, changeBatch(ctx, p, ph, entries[:n])...)
		entries = entries[n:]
	}
	return failed
}

// changeBatch tells the tracker first and the kernel second, so that the kernel's echo finds the tracker informed.
// What the kernel refuses is taken back.
func changeBatch[K comparable, V any](ctx context.Context, p *pass, ph phase[K, V], entries []*entry[V]) (failed []*entry[V]) {
	changes := make([]kernel.Change[V], len(entries))
	before := make([]*V, len(entries))
	p.mu.Lock()
	for i, e := range entries {
		changes[i] = kernel.Change[V]{Value: *cmp.Or(e.want, e.have), Delete: e.want == nil}
		before[i] = e.have
		ph.tracker.assume(e, e.want)
	}
	p.mu.Unlock()

	errs := ph.apply(ctx, changes)
	for i, e := range entries {
		err := at(errs, i)
		if err == nil {
			p.counts(ph.kind).Changes++
			continue
		}
		p.mu.Lock()
		ph.tracker.assume(e, before[i])
		p.mu.Unlock()
		p.fail(ph.kind, changeError(e, changes[i], err))
		failed = append(failed, e)
	}
	return failed
}

func changeError[V any](e *entry[V], c kernel.Change[V], err error) error {
	if c.Delete {
		return fmt.Errorf("remove %v: %w", c.Value, err)
	}
	return fmt.Errorf("set %v of %q: %w", c.Value, e.owner.Owner, err)
}

// at returns the i-th error of an Apply call.
func at(errs []error, i int) error {
	if errs == nil {
		return nil
	}
	return errs[i]
}

func pending[K comparable, V any](p *pass, ph phase[K, V]) []*entry[V] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ph.tracker.pending()
}

// missing records that the fragment lacks something which its later objects rest on.
func (p *pass) missing(f *kernel.Fragment) {
	if p.failed == nil {
		p.failed = map[*kernel.Fragment]bool{}
	}
	p.failed[f] = true
}

// routesInUse yields the routes that the kernel holds still, although they should have been moved or removed by now.
func (p *pass) routesInUse() []kernel.Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	var routes []kernel.Route
	for _, e := range p.routes.pending() {
		if e.have != nil {
			routes = append(routes, *e.have)
		}
	}
	return routes
}

func (p *pass) gatewaysInUse() map[kernel.NeighborKey]bool {
	inUse := map[kernel.NeighborKey]bool{}
	for _, r := range p.routesInUse() {
		for _, h := range r.NextHops {
			inUse[kernel.NeighborKey{Link: h.Link, IP: h.Gateway}] = true
		}
	}
	return inUse
}

func (p *pass) linksInUse() map[string]bool {
	inUse := map[string]bool{}
	for _, r := range p.routesInUse() {
		for _, h := range r.NextHops {
			inUse[h.Link] = true
		}
	}
	return inUse
}

// macsInUse returns the FDB entries that neighbours use which should have been changed or removed by now.
func (p *pass) macsInUse() map[kernel.FDBKey]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	inUse := map[kernel.FDBKey]bool{}
	for _, e := range p.neighbors.pending() {
		if e.have != nil {
			inUse[kernel.FDBKey{Link: e.have.Link, MAC: e.have.MAC}] = true
		}
	}
	return inUse
}

// syncTables hands the tables on: their handle compares, and writes each that differs in one transaction.
func (p *pass) syncTables(ctx context.Context, want kernel.State) {
	p.takeDirty(kernel.KindTable)
	stale := p.desireTables(want)
	if p.takeTablesDoubt() {
		p.tables.Resync()
	}
	if err := p.tables.SyncTables(ctx, want.Tables, stale); err != nil {
		p.fail(kernel.KindTable, fmt.Errorf("sync tables: %w", err))
		return
	}
	p.counts(kernel.KindTable).Programmed = len(want.Tables)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range stale {
		delete(p.tableDesired, name)
	}
}

func (p *pass) takeTablesDoubt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	doubt := p.tablesDoubt
	p.tablesDoubt = false
	return doubt
}

// desireTables enters the tables into the books and returns the names of those that must go.
func (p *pass) desireTables(want kernel.State) (stale []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.tableDesired {
		p.tableDesired[name] = false
	}
	for _, name := range want.AbsentTables {
		p.tableDesired[name] = false
	}
	for _, t := range want.Tables {
		p.tableDesired[t.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.tableDesired)) {
		if !p.tableDesired[name] && !p.untrusted {
			stale = append(stale, name)
		}
	}
	return stale
}
