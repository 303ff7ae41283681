package etcd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

const (
	lostRetry     = 5 * time.Second // between looks at a record that another node holds
	firstRestore  = 100 * time.Millisecond
	lastRestore   = time.Minute // least pause between restoring a record that somebody keeps changing
	restoreMemory = 10 * time.Minute
)

// registration keeps one node's record.
type registration struct {
	store  *Store
	wake   chan struct{} // of length 1: an Update waits
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	lost   chan struct{} // closed by run when another node was found to hold the subnets

	// These belong to Register, and then to run.
	subnets  store.Subnets
	key      string
	found    *store.Lease     // the record that Register goes on with; nil when there was none
	reserved bool             // the operator made the record without an etcd lease; it stays so
	id       clientv3.LeaseID // the etcd lease that is in use
	restored time.Time        // when the record was last put back after somebody changed it
	restores int              // how often, without restoreMemory between
	loseOnce sync.Once

	mu    sync.Mutex
	attrs store.Attributes // as wanted
	lease *store.Lease     // as stored; nil before
	err   error
}

// start begins to keep the record, as it was stored up to revision.
func (r *registration) start(revision int64) {
	ctx, cancel := context.WithCancel(r.store.ctx)
	r.cancel = cancel
	started := r.store.start(func() {
		defer close(r.done)
		r.run(ctx, revision)
	})
	if !started {
		r.err = errClosed
		close(r.done)
	}
}

// run holds the record whenever something may have happened to it. revision is 0 while that of the record is unknown.
func (r *registration) run(ctx context.Context, revision int64) {
	var failed retry
	epoch := r.store.epoch()
	for pause := r.renewal(); r.await(ctx, epoch, revision, pause); {
		var err error
		epoch = r.store.epoch()
		revision, err = r.hold(ctx)
		if ctx.Err() != nil {
			return
		}
		r.report(err)
		switch {
		case err == nil:
			failed.reset()
			pause = r.renewal()
		case errors.Is(err, store.ErrLost):
			failed.reset()
			pause = lostRetry
		default:
			pause = failed.next()
		}
	}
}

// renewal returns how long to wait before the next renewal: a third of the TTL, give or take a tenth of that.
func (r *registration) renewal() time.Duration {
	third := r.store.cfg.LeaseTTL / 3
	return third - third/10 + rand.N(third/5)
}

// await returns when pause is over, attributes were updated, the epoch ended, or the record changed after revision. It reports
// false when ctx has ended.
func (r *registration) await(ctx, epoch context.Context, revision int64, pause time.Duration) bool {
	watching, cancel := context.WithCancel(ctx)
	changed := make(chan struct{})
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	if revision != 0 {
		watcher.Go(func() { r.watch(watching, revision, changed) })
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.wake:
	case <-timer.C:
	case <-epoch.Done():
	case <-changed:
		return sleep(ctx, r.calm())
	}
	return true
}

// calm returns how long to wait before a record that was changed is looked at. It grows when that happens time and again, as when two
// nodes have one public address.
func (r *registration) calm() time.Duration {
	if r.restores < 2 || time.Since(r.restored) > restoreMemory {
		return firstRestore
	}
	return min(firstRestore<<min(r.restores, 16), lastRestore)
}

// watch closes changed when the record changed after revision, or when that cannot be told.
func (r *registration) watch(ctx context.Context, revision int64, changed chan<- struct{}) {
	defer close(changed)
	cli, err := r.store.client()
	if err != nil {
		return
	}
	for resp := range cli.Watch(clientv3.WithRequireLeader(ctx), r.key, clientv3.WithRev(revision+1)) {
		if len(resp.Events) > 0 || resp.Err() != nil {
			return
		}
	}
}

// hold makes the record be what it should be and returns a revision after which a change to it is news. A record that is
// right is left alone, so that the other nodes see no event.
func (r *registration) hold(ctx context.Context) (int64, error) {
	kv, revision, err := r.store.get(ctx, r.key)
	if err != nil {
		return 0, err
	}
	if kv == nil {
		return r.reclaim(ctx)
	}
	attrs := r.wanted()
	if r.foreign(kv, attrs) {
		return revision, fmt.Errorf("hold %s: %w", r.key, store.ErrLost)
	}
	lease := store.NewLease(r.subnets, attrs)
	value, err := lease.Value()
	if err != nil {
		return revision, err
	}
	if kv.Lease != 0 {
		r.id, r.reserved = clientv3.LeaseID(kv.Lease), false
	}
	if err := r.renew(ctx); err != nil {
		return 0, err
	}
	if r.id != clientv3.LeaseID(kv.Lease) || !bytes.Equal(kv.Value, value) {
		r.noteRestore(kv)
		unchanged := clientv3.Compare(clientv3.ModRevision(r.key), "=", kv.ModRevision)
		put := clientv3.OpPut(r.key, string(value), clientv3.WithLease(r.id))
		if revision, err = r.store.transact(ctx, []clientv3.Cmp{unchanged}, []clientv3.Op{put}); err != nil {
			return 0, fmt.Errorf("write %s: %w", r.key, err)
		}
		r.store.log.Info("lease record written", "subnet", r.subnets, "revision", revision)
	}
	r.stored(lease)
	return revision, nil
}

// reclaim makes the record anew after it vanished.
func (r *registration) reclaim(ctx context.Context) (int64, error) {
	r.reserved = false
	records, revision, err := r.store.records(ctx)
	if err != nil {
		return 0, err
	}
	for _, other := range records {
		if other.subnets.Overlaps(r.subnets) {
			return revision, fmt.Errorf("claim %s again: %s holds it: %w", r.key, other.subnets, store.ErrLost)
		}
	}
	return r.claim(ctx, nil, revision)
}

// foreign reports whether the record is that of another node. One that cannot be read is not: its key is ours.
func (r *registration) foreign(kv *mvccpb.KeyValue, attrs store.Attributes) bool {
	found, err := store.DecodeLease(r.subnets, kv.Value)
	if err != nil || found.SameNode(attrs) {
		return false
	}
	stored := cmp.Or(r.Lease(), r.found) // with the address before one that is not yet stored
	return stored == nil || !found.SameNode(store.Attributes{PublicIP: stored.PublicIP, PublicIPv6: stored.PublicIPv6})
}

// noteRestore counts how often somebody else changed what this node had stored.
func (r *registration) noteRestore(kv *mvccpb.KeyValue) {
	stored := r.Lease()
	if stored == nil {
		return
	}
	if value, err := stored.Value(); err == nil && bytes.Equal(value, kv.Value) {
		return
	}
	if time.Since(r.restored) > restoreMemory {
		r.restores = 0
	}
	r.restored = time.Now()
	r.restores++
	r.store.log.Warn("the node's lease record was changed by somebody else and is written again", "subnet", r.subnets, "times", r.restores)
}

func (r *registration) wanted() store.Attributes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attrs
}

// stored notes what the record says now.
func (r *registration) stored(lease *store.Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !lease.Equal(r.lease) {
		r.lease = lease
	}
}

// report notes the outcome of hold and logs it when it is another than before.
func (r *registration) report(err error) {
	r.mu.Lock()
	before := r.err
	r.err = err
	r.mu.Unlock()
	if errors.Is(err, store.ErrLost) {
		r.loseOnce.Do(func() { close(r.lost) })
	}
	switch {
	case err == nil && before != nil:
		r.store.log.Info("the node's subnet is held again", "subnet", r.subnets)
	case err != nil && (before == nil || errors.Is(err, store.ErrLost) != errors.Is(before, store.ErrLost)):
		r.store.log.Warn("the node's subnet cannot be kept; trying on", "subnet", r.subnets, "err", err)
	}
}

// Lease implements store.Registration.
func (r *registration) Lease() *store.Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lease
}

// Update implements store.Registration.
func (r *registration) Update(attrs store.Attributes) {
	r.mu.Lock()
	r.attrs = attrs
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // one waits already
	}
}

// Err implements store.Registration.
func (r *registration) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Lost implements store.Registration.
func (r *registration) Lost() <-chan struct{} { return r.lost }

// Close implements store.Registration.
func (r *registration) Close() error {
	r.cancel()
	<-r.done
	return nil
}
