package etcd

import (
	"context"
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
	w.feed = feed{store: s, prefix: s.leasePrefix(), to: w}
	return s.keepUp(ctx, "leases", w.feed.run)
}

// watch is the state of one Watch. It belongs to one goroutine.
type watch struct {
	store    *Store
	feed     feed
	emit     func(store.Snapshot)
	leases   []*store.Lease
	changes  []store.Change   // that leases lacks yet
	rejected map[string]error // by name
	emitted  store.Snapshot   // the last one; its Revision is 0 when there was none
	holdover holdover
}

// load implements reader.
func (w *watch) load(ctx context.Context, lost bool) (int64, error) {
	var next []*store.Lease
	rejected := map[string]error{}
	revision, err := w.store.scan(ctx, w.feed.prefix, func(name string, kv *mvccpb.KeyValue) {
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
		return 0, err
	}
	for name, err := range rejected {
		w.report(name, err)
	}
	if lost || w.settling() {
		w.holdover.begin(w.leases, next, w.store.cfg.Holdover)
		if n := len(w.holdover.leases); n > 0 {
			w.tellHoldover(n)
		}
	} else {
		for _, l := range next {
			w.holdover.release(l)
		}
	}
	w.leases, w.rejected = store.Replace(w.leases, w.holdover.held(next)), rejected
	return revision, nil
}

// due implements reader.
func (w *watch) due() <-chan time.Time { return w.holdover.ends() }

// elapse implements reader.
func (w *watch) elapse() { w.changes = append(w.changes, w.holdover.end()...) }

// settling reports whether leases may be missing whose nodes could not renew them, as after a long outage.
func (w *watch) settling() bool { return w.store.health.sinceLongOutage() < w.store.cfg.Holdover }

func (w *watch) tellHoldover(least int) {
	w.store.log.Warn("etcd lost leases, or they expired in an outage; they hold on until their nodes had time to claim again",
		"atLeast", least, "time", w.store.cfg.Holdover)
}

// change implements reader.
func (w *watch) change(event *clientv3.Event) {
	change, ok := w.event(string(event.Kv.Key[len(w.feed.prefix):]), event)
	if !ok {
		return
	}
	if change.Lease != nil {
		w.changes = append(w.changes, w.holdover.release(change.Lease)...)
	}
	w.changes = append(w.changes, change)
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

// publish implements reader: it emits a snapshot when that differs from the last one.
func (w *watch) publish() {
	w.leases, w.changes = store.Merge(w.leases, w.changes), nil
	rejected := make([]store.Reject, 0, len(w.rejected))
	for _, name := range slices.Sorted(maps.Keys(w.rejected)) {
		rejected = append(rejected, store.Reject{Key: name, Err: w.rejected[name]})
	}
	last := w.emitted
	if last.Revision != 0 && slices.Equal(last.Leases, w.leases) && slices.EqualFunc(last.Rejected, rejected, sameReject) {
		return
	}
	w.emitted = store.Snapshot{Leases: w.leases, Revision: max(last.Revision+1, w.feed.revision), Rejected: rejected}
	w.emit(w.emitted)
}

func sameReject(a, b store.Reject) bool { return a.Key == b.Key && a.Err.Error() == b.Err.Error() }
