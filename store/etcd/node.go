package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// WatchNode implements store.Store. It returns ctx's error, or an error when the store is closed or the name is refused.
func (s *Store) WatchNode(ctx context.Context, name string, emit func(store.NodeRecord)) error {
	if err := store.CheckNodeName(name); err != nil {
		return fmt.Errorf("watch the node record: %w", err)
	}
	w := &nodeWatch{store: s, key: s.nodeKey(name), emit: emit, last: store.NodeRecord{Name: name}}
	return s.keepUp(ctx, w.key, w.run)
}

// nodeWatch is the state of one WatchNode. It belongs to one goroutine.
type nodeWatch struct {
	store   *Store
	key     string
	emit    func(store.NodeRecord)
	last    store.NodeRecord // the last good one
	emitted bool             // last was emitted
	problem string           // what is wrong with the stored record; empty when nothing is
	epoch   context.Context  // of last
	held    *time.Timer      // runs while last is held on to after etcd lost it; nil otherwise
}

// run reads the record and follows it until that breaks. It reports whether that went well for a while. As with leases, the watch
// stands before the record is read.
func (w *nodeWatch) run(ctx context.Context) (progressed bool, err error) {
	epoch := w.store.epoch()
	cli, err := w.store.client()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(epoch, cancel)()
	responses := cli.Watch(clientv3.WithRequireLeader(ctx), w.key)
	kv, revision, err := w.store.get(ctx, w.key)
	if err != nil {
		return false, err
	}
	w.load(epoch, kv)
	for begin := time.Now(); ; {
		select {
		case resp, open := <-responses:
			well := time.Since(begin) > lastRetry
			switch err := resp.Err(); {
			case err != nil:
				return well, fmt.Errorf("watch %s: %w", w.key, err)
			case epoch.Err() != nil:
				return well, errors.New("etcd's history changed")
			case !open:
				return well, errors.New("etcd ended the watch")
			}
			w.apply(resp, revision)
		case <-w.holding():
			w.take(nil)
		}
	}
}

// load takes over what the record says in the given epoch. A record that vanished not because anybody removed it, but because etcd
// lost it, is held on to for as long as leases are: the operator may be about to restore it.
func (w *nodeWatch) load(epoch context.Context, kv *mvccpb.KeyValue) {
	lost := kv == nil && w.epoch != nil && w.epoch != epoch && !w.last.Equal(store.NodeRecord{Name: w.last.Name})
	w.epoch = epoch
	switch {
	case lost:
		w.store.log.Warn("etcd lost the node's record; it holds on for a while", "key", w.key, "time", w.store.cfg.Holdover)
		w.held = time.NewTimer(w.store.cfg.Holdover)
	case kv != nil:
		w.take(kv)
	case w.held == nil:
		w.take(nil)
	}
}

// apply takes over what the last event after revision says.
func (w *nodeWatch) apply(resp clientv3.WatchResponse, revision int64) {
	if len(resp.Events) == 0 {
		return
	}
	last := resp.Events[len(resp.Events)-1]
	switch {
	case last.Kv.ModRevision <= revision: // it came while the record was read, which says it
	case last.Type == clientv3.EventTypeDelete:
		w.take(nil)
	default:
		w.take(last.Kv)
	}
}

// holding yields when the record was held on to for long enough; it is nil while it is not held.
func (w *nodeWatch) holding() <-chan time.Time {
	if w.held == nil {
		return nil
	}
	return w.held.C
}

// take makes what kv says, nil for nothing, the node's record, and emits it when that is new.
func (w *nodeWatch) take(kv *mvccpb.KeyValue) {
	next, problem := store.NodeRecord{Name: w.last.Name}, ""
	if kv != nil {
		var err error
		if next, err = store.ParseNodeRecord(w.last.Name, kv.Value); err != nil {
			next, problem = w.last, err.Error()
		}
	}
	if problem != "" && problem != w.problem {
		w.store.log.Warn("the node's record cannot be read; the last good one stays", "key", w.key, "err", problem)
	}
	w.problem, w.held = problem, nil
	if w.emitted && next.Equal(w.last) {
		return
	}
	w.last, w.emitted = next, true
	w.emit(next)
}

// nodeKey is the key of what the operator says of a node. flannel reads nothing there.
func (s *Store) nodeKey(name string) string { return s.cfg.Prefix + "/nodes/" + name }
