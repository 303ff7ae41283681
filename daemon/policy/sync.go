package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

const (
	// spacing gathers a burst of changes.
	spacing = 5 * time.Millisecond
	// driftSpacing bounds what it costs when another program keeps changing our table.
	driftSpacing = 200 * time.Millisecond

	// Everything is compared with the kernel every syncPeriod and up to an eighth of it: nodes that were started together are not to work together.
	syncPeriod = 5 * time.Minute

	// holdMost is how long to wait for a plugin that holds the daemon up, each of which does for about a millisecond.
	holdMost = 2 * time.Second

	// pieceSize is how many elements are written in one transaction at most; see kernel.BulkTables.
	pieceSize = 1_000
)

// syncOnce syncs with what has come, and returns the pause that is to follow.
func (e *Enforcer) syncOnce(ctx context.Context) (pause time.Duration, err error) {
	began := time.Now()
	in := e.take()
	err = e.sync(ctx, in)
	if in.drift && e.synced { // which only this goroutine changes
		return max(driftSpacing, e.compared), err
	}
	return max(spacing, time.Since(began)), err
}

// run syncs until ctx ends.
func (e *Enforcer) run(ctx context.Context) {
	e.loop.Run(ctx, e.syncOnce, e.period, func() { e.put(func(in *inbox) { in.compare, in.records = true, true }) })
}

func (e *Enforcer) period() time.Duration { return syncPeriod + e.opts.Jitter(syncPeriod/8) }

// sync takes in what came and makes the kernel hold what follows. After an error, what was taken in is not lost: the next one compares
// everything.
//
// A plugin that adds a pod, and has no answer in time, removes from the table what another pod may have left there of its addresses. So that it is not put
// back by a sync that has read the other pod's record before, plugins are held up from when the records are read to when the table is written.
func (e *Enforcer) sync(ctx context.Context, in inbox) error {
	e.state.Lock()
	defer e.state.Unlock()
	defer e.letGo()
	began := time.Now()
	if e.unwritten.IsZero() {
		e.unwritten = in.since
	}
	e.useNodePods(in.nodePods)
	e.early = append(e.early, in.changes...)
	if e.filter == nil {
		return nil
	}
	for _, c := range e.early {
		e.apply(c)
	}
	e.early = nil
	compare := in.drift || in.compare || e.compare
	var err error
	if in.records || compare || !e.pods.current {
		_, err = e.followRecords(ctx)
	}
	if err == nil && e.complete {
		err = e.program(ctx, began, compare)
	}
	if err == nil && e.complete {
		e.notify()
	}
	if err != nil || e.complete {
		e.progress.Synced(began, err)
	}
	return err
}

// useNodePods begins with an empty filter when the node's networks are others than before. The kernel keeps what it has until the source has told
// everything again.
func (e *Enforcer) useNodePods(networks []netip.Prefix) {
	if networks == nil || e.filter != nil && slices.Equal(e.nodePods, networks) {
		return
	}
	if e.filter != nil {
		syncloop.Nudge(e.rewatch)
	}
	e.nodePods = networks
	config := e.opts.Table
	config.NodePods = networks
	e.filter, e.complete, e.compare = filter.New(config), false, true
	e.pods.forget()
}

// apply hands changes to the filter. Pods of this node are left to the records when these tell of them.
func (e *Enforcer) apply(c store.PolicyChanges) {
	e.pods.amend(&c)
	e.count(c)
	e.filter.Apply(c)
	e.complete = e.complete || c.Reset
}

// hold keeps plugins from changing what the kernel holds of local pods, until the sync ends.
func (e *Enforcer) hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, holdMost)
	defer cancel()
	release, err := e.opts.Hold(ctx)
	if err != nil {
		return err
	}
	e.release = release
	return nil
}

func (e *Enforcer) letGo() {
	if e.release != nil {
		e.release()
		e.release = nil
	}
}

// followRecords looks which pods are attached, and keeps plugins waiting from then on. It reports whether they are others than before.
func (e *Enforcer) followRecords(ctx context.Context) (changed bool, err error) {
	e.pods.current = false
	if err := e.hold(ctx); err != nil {
		return false, err
	}
	waiting := e.waiting()
	adding := make(map[kernel.PodOwner]bool, len(waiting))
	for _, w := range waiting {
		adding[w.owner] = true
	}
	records, err := e.opts.Records()
	if err != nil {
		return false, fmt.Errorf("list the node's pods: %w", err)
	}
	for _, w := range waiting {
		w.seen = true
	}
	e.pods.current = true
	own, changed := e.pods.set(records, adding)
	if len(own) > 0 {
		e.filter.Apply(store.PolicyChanges{Pods: own})
	}
	if changed {
		e.filter.SetLocal(e.pods.local)
	}
	return changed || len(own) > 0, nil
}

// program writes what changed, or with compare all that differs from the kernel.
func (e *Enforcer) program(ctx context.Context, began time.Time, compare bool) error {
	compare = compare || e.compare
	e.compare = true // unless all goes well
	written, err := e.programPlans(ctx, compare)
	if compare || written || err != nil {
		e.programs++
		e.opts.Metrics.synced(began, compare, err)
	}
	if err != nil {
		return err
	}
	if compare {
		e.compared = time.Since(began)
	}
	e.compare = false
	e.written(compare)
	return nil
}

// programPlans writes plans until there is nothing left to write: what one could only stop using, the next one removes.
func (e *Enforcer) programPlans(ctx context.Context, compare bool) (written bool, err error) {
	if compare {
		if err := e.programDifference(ctx); err != nil {
			return true, err
		}
	}
	for {
		plan := e.filter.Plan()
		e.note(plan)
		if plan.Empty() {
			return written, nil
		}
		written = true
		if plan.Table != nil && e.release == nil {
			if stale, err := e.followRecords(ctx); err != nil {
				return true, err
			} else if stale { // the plan has pods that are gone by now
				if err := e.programDifference(ctx); err != nil {
					return true, err
				}
				continue
			}
		}
		if err := e.write(ctx, plan); err != nil {
			return true, err
		}
	}
}

// programDifference makes good whatever is different in the kernel.
//
// A table that is not there is begun with its large sets alone, which no packet meets: so they are full when the rules come. When a set alone is
// missing, from a table of another version or one that somebody tampered with, there are rules already. Then the table is completed
// first, and pods with policies are closed until its sets are full again.
func (e *Enforcer) programDifference(ctx context.Context) error {
	_, err := e.opts.Kernel.ListElements(gate.Family, gate.TableName, gate.SetEgress4)
	absent := errors.Is(err, unix.ENOENT)
	if err != nil && !absent {
		return fmt.Errorf("list set %s: %w", gate.SetEgress4, err)
	}
	if absent {
		config := e.opts.Table
		config.NodePods = e.nodePods
		if err := e.syncTable(ctx, largeSets(gate.Closed(config))); err != nil {
			return err
		}
	}
	plan, err := e.compareListed(ctx)
	if err != nil {
		return err
	}
	if e.doubtful && !absent {
		if err := e.syncTable(ctx, *plan.Table); err != nil {
			return err
		}
		if plan, err = e.compareListed(ctx); err != nil {
			return err
		}
	}
	err = e.write(ctx, plan)
	e.doubtful = errors.Is(err, unix.ENOENT)
	return err
}

// largeSets is a table with nothing in it but its Bulk sets.
func largeSets(t kernel.Table) kernel.Table {
	t.Chains = nil
	t.Sets = slices.DeleteFunc(slices.Clone(t.Sets), func(s kernel.Set) bool { return !s.Bulk })
	return t
}

// compareListed reads the large sets, and the networks, and compares with them.
func (e *Enforcer) compareListed(ctx context.Context) (filter.Plan, error) {
	listing := &filter.Listing{}
	if err := listing.Read(ctx, e.opts.Kernel, gate.Family, gate.TableName, filter.BulkSets()...); err != nil {
		return filter.Plan{}, err
	}
	for _, set := range filter.NetworkSets() {
		// One that cannot be read, since somebody has made it otherwise, is as good as empty: the table is written anew.
		if elements, err := e.opts.Kernel.ListElements(gate.Family, gate.TableName, set); err == nil {
			listing.AddNetworks(elements)
		} else if !errors.Is(err, unix.ENOENT) {
			e.opts.Log.Warn("a set of the policies' table cannot be read, and is taken for an empty one", "set", set, "err", err)
		}
	}
	plan := e.filter.Compare(listing)
	e.note(plan)
	return plan, nil
}

// write writes a plan in its order: each step leaves every connection with the old verdict or the new one.
func (e *Enforcer) write(ctx context.Context, plan filter.Plan) error {
	if plan.Table == nil {
		return e.changeElements(ctx, slices.Concat(plan.Before, plan.After))
	}
	if err := e.changeElements(ctx, plan.Before); err != nil {
		return err
	}
	failpoint.Hit("policy-before")
	if err := e.syncTable(ctx, *plan.Table); err != nil {
		return err
	}
	failpoint.Hit("policy-table")
	return e.changeElements(ctx, plan.After)
}

func (e *Enforcer) syncTable(ctx context.Context, t kernel.Table) error {
	e.table = t
	if e.opts.CountDrops != nil {
		e.opts.CountDrops(ctx)
		defer e.opts.CountDrops(ctx)
	}
	return e.opts.Kernel.SyncTables(ctx, []kernel.Table{t}, nil)
}

// changeElements writes changes in their order, in several transactions when there are very many.
func (e *Enforcer) changeElements(ctx context.Context, changes []kernel.SetChange) error {
	for len(changes) > 0 {
		n, size := 0, 0
		for n < len(changes) {
			more := len(changes[n].Remove) + len(changes[n].Add)
			if n > 0 && size+more > pieceSize {
				break
			}
			size += more
			n++
		}
		if err := e.opts.Kernel.ChangeElements(ctx, gate.Family, gate.TableName, changes[:n]); err != nil {
			return err
		}
		e.opts.Metrics.written.Add(float64(size))
		changes = changes[n:]
	}
	return nil
}

// note remembers what the plans of a sync mean for connections.
func (e *Enforcer) note(plan filter.Plan) {
	e.changed, e.pressing = e.changed || plan.Changed, e.pressing || plan.Pressing
}

// written does what has to wait until the kernel holds all that was taken in; compared: it may have held anything before.
func (e *Enforcer) written(compared bool) {
	now := time.Now()
	e.vacancies.written(now, e.pods.addrs)
	if compared {
		e.vacancies.doubt(now)
	}
	if !e.unwritten.IsZero() {
		e.opts.Metrics.programming.Observe(time.Since(e.unwritten).Seconds())
		e.unwritten = time.Time{}
	}
	switch {
	case e.pressing, compared:
		e.cutter.Cut()
	case e.changed:
		e.cutter.CutLater()
	}
	if !e.synced {
		close(e.programmed)
	}
	e.changed, e.pressing, e.synced = false, false, true
}
