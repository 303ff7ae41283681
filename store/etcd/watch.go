package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// Watch implements store.Store. It returns ctx's error, or an error when the store is closed.
func (s *Store) Watch(ctx context.Context, emit func(store.Snapshot)) error {
	w := &watch{store: s, emit: emit, rejected: map[string]error{}}
	return s.keepUp(ctx, "leases", w.run)
}

// watch is the state of one Watch. It belongs to one goroutine.
type watch struct {
	store    *Store
	emit     func(store.Snapshot)
	epoch    context.Context
	leases   []*store.Lease
	rejected map[string]error // by name
	revision int64            // etcd's, up to which leases is complete; 0: it has to be loaded
	loaded   int64            // etcd's, at which leases was last read as a whole
	emitted  store.Snapshot   // the last one; its Revision is 0 when there was none
	lost     bool             // etcd's history changed since leases was read
	holdover holdover
}

// run follows the leases until that breaks, from the revision on that they are complete up to. It reports whether etcd told it anything.
//
// When they have to be loaded, the watch stands before they are read: a watch from a revision that is past already is served by
// etcd's catch-up loop, up to 100 ms late (server/storage/mvcc/watchable_store.go, syncWatchersLoop).
func (w *watch) run(ctx context.Context) (progressed bool, err error) {
	if epoch := w.store.epoch(); epoch != w.epoch {
		w.lost = w.lost || w.epoch != nil
		w.epoch, w.revision = epoch, 0
	}
	cli, err := w.store.client()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(w.epoch, cancel)()
	batches := gather(cli.Watch(clientv3.WithRequireLeader(ctx), w.store.leasePrefix(), w.options()...)) // when Watch returns, it stands
	defer func() {
		cancel()
		for range batches { // until gather has ended
		}
	}()
	if w.revision == 0 {
		if err := w.load(ctx); err != nil {
			return false, err
		}
		progressed = true
	}
	followed, err := w.follow(batches)
	return progressed || followed, err
}

func (w *watch) options() []clientv3.OpOption {
	options := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithProgressNotify()}
	if w.revision != 0 {
		options = append(options, clientv3.WithRev(w.revision+1))
	}
	return options
}

// load reads all leases. It changes nothing unless it succeeds.
func (w *watch) load(ctx context.Context) error {
	var next []*store.Lease
	rejected := map[string]error{}
	revision, err := w.store.scan(ctx, func(name string, kv *mvccpb.KeyValue) {
		lease, err := read(name, kv.Value)
		if err != nil {
			rejected[name] = err
			lease = w.lastGood(name)
		}
		if lease != nil {
			next = append(next, lease)
		}
	})
	if err != nil {
		return err
	}
	for name, err := range rejected {
		w.report(name, err)
	}
	if w.lost || w.settling() {
		w.holdover.begin(w.leases, next, w.store.cfg.Holdover)
		w.lost = false
		if n := len(w.holdover.leases); n > 0 {
			w.tellHoldover(n)
		}
	} else {
		for _, l := range next {
			w.holdover.release(l)
		}
	}
	w.leases, w.rejected, w.revision = store.Replace(w.leases, w.holdover.held(next)), rejected, revision
	w.loaded = revision
	w.publish()
	return nil
}

// settling reports whether leases may be missing whose nodes could not renew them, as after a long outage.
func (w *watch) settling() bool { return w.store.health.sinceLongOutage() < w.store.cfg.Holdover }

func (w *watch) tellHoldover(least int) {
	w.store.log.Warn("etcd lost leases, or they expired in an outage; they hold on until their nodes had time to claim again",
		"atLeast", least, "time", w.store.cfg.Holdover)
}

// spacing is the time between two snapshots, at the least. Each is a copy of an array with all leases: 1,000 nodes that register in a
// twentieth of a second would otherwise cost hundreds of copies.
const spacing = 5 * time.Millisecond

// follow applies what happens after w.revision.
func (w *watch) follow(batches <-chan []clientv3.WatchResponse) (progressed bool, err error) {
	var rest <-chan time.Time // nil: the next batch may come
	for open := true; open; {
		var batch []clientv3.WatchResponse
		var changes []store.Change
		next := batches
		if rest != nil {
			next = nil
		}
		select {
		case <-rest:
			rest = nil
			continue
		case batch, open = <-next:
			rest = time.After(spacing)
		case <-w.holdover.ends():
			changes = w.holdover.end()
		}
		for i := 0; i < len(batch) && err == nil; i++ {
			changes, err = w.apply(changes, batch[i])
		}
		w.leases = store.Merge(w.leases, changes)
		w.publish()
		if err != nil {
			return progressed, err
		}
		progressed = progressed || len(batch) > 0
	}
	if w.epoch.Err() != nil {
		return progressed, errors.New("etcd's history changed")
	}
	return progressed, errors.New("etcd ended the watch")
}

// gather passes on all responses that have come since its receiver last took some. It ends with events.
func gather(events clientv3.WatchChan) <-chan []clientv3.WatchResponse {
	batches := make(chan []clientv3.WatchResponse)
	go func() {
		defer close(batches)
		var pending []clientv3.WatchResponse
		for {
			var ready chan<- []clientv3.WatchResponse // nil while there is nothing to pass on
			if len(pending) > 0 {
				ready = batches
			}
			select {
			case ready <- pending:
				pending = nil
			case resp, open := <-events:
				if !open {
					if len(pending) > 0 {
						batches <- pending
					}
					return
				}
				pending = append(pending, resp)
			}
		}
	}()
	return batches
}

// apply adds to changes what resp says.
func (w *watch) apply(changes []store.Change, resp clientv3.WatchResponse) ([]store.Change, error) {
	if err := resp.Err(); err != nil {
		if resp.CompactRevision != 0 {
			w.revision = 0 // what happened since is unknown
		}
		return changes, fmt.Errorf("watch %s: %w", w.store.leasePrefix(), err)
	}
	w.store.health.answered(resp.Header.Revision) // before all else: it may end a long outage
	for _, event := range resp.Events {
		if event.Kv.ModRevision <= w.loaded { // it came while the leases were read, and they say it
			continue
		}
		name := string(event.Kv.Key[len(w.store.leasePrefix()):])
		if change, ok := w.event(name, event); ok {
			if change.Lease != nil {
				changes = append(changes, w.holdover.release(change.Lease)...)
			}
			changes = append(changes, change)
		}
		w.revision = event.Kv.ModRevision
	}
	// The header's revision may be ahead of the events while the server still catches up; only an answer
	// without events says that there is nothing up to it.
	if resp.IsProgressNotify() {
		w.revision = max(w.revision, resp.Header.Revision)
	}
	return changes, nil
}

func (w *watch) event(name string, event *clientv3.Event) (store.Change, bool) {
	if event.Type == clientv3.EventTypeDelete {
		delete(w.rejected, name)
		subnets, err := store.ParseKey(name)
		if old := store.Find(w.leases, subnets); err == nil && old != nil && w.settling() {
			if w.holdover.hold(old, w.store.cfg.Holdover) {
				w.tellHoldover(1)
			}
			return store.Change{}, false
		}
		return store.Change{Subnets: subnets}, err == nil
	}
	lease, err := read(name, event.Kv.Value)
	if err != nil {
		w.report(name, err)
		w.rejected[name] = err
		return store.Change{}, false
	}
	delete(w.rejected, name)
	return store.Change{Subnets: lease.Subnets(), Lease: lease}, true
}

func read(name string, value []byte) (*store.Lease, error) {
	subnets, err := store.ParseKey(name)
	if err != nil {
		return nil, err
	}
	return store.DecodeLease(subnets, value)
}

// lastGood returns the lease that name stood for before, or nil.
func (w *watch) lastGood(name string) *store.Lease {
	subnets, err := store.ParseKey(name)
	if err != nil {
		return nil
	}
	return store.Find(w.leases, subnets)
}

// report logs a record that cannot be read, once for each thing that is wrong with it. It is for debugging alone: the snapshot names
// the record too, and whoever receives that tells the operator.
func (w *watch) report(name string, err error) {
	if old := w.rejected[name]; old == nil || old.Error() != err.Error() {
		w.store.log.Debug("a lease record is skipped", "err", err)
	}
}

// publish emits a snapshot when it differs from the last one.
func (w *watch) publish() {
	rejected := make([]store.Reject, 0, len(w.rejected))
	for _, name := range slices.Sorted(maps.Keys(w.rejected)) {
		rejected = append(rejected, store.Reject{Key: name, Err: w.rejected[name]})
	}
	last := w.emitted
	if last.Revision != 0 && slices.Equal(last.Leases, w.leases) && slices.EqualFunc(last.Rejected, rejected, sameReject) {
		return
	}
	w.emitted = store.Snapshot{Leases: w.leases, Revision: max(last.Revision+1, w.revision), Rejected: rejected}
	w.emit(w.emitted)
}

func sameReject(a, b store.Reject) bool { return a.Key == b.Key && a.Err.Error() == b.Err.Error() }
