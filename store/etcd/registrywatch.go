package etcd

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// registryWatch follows the keys of the registry for a listener, through outages and losses of etcd. It is the reader of a feed and belongs to one
// goroutine. Keys are without the registry's prefix.
type registryWatch struct {
	store    *Store
	what     string // the keys are of, for the log
	to       listener
	feed     feed
	known    map[string]int64 // all keys, and the revisions of their last change
	rejected map[string]string

	// held are keys that vanished because etcd lost them, or because pods could not be renewed in a long outage. They stay for a while, as
	// leases do (holdover.go).
	held  map[string]bool
	timer *time.Timer // runs while something is held; nil otherwise
}

// listener makes something of the registry's keys. Its methods are called from one goroutine, but for decode.
type listener interface {
	// prepare comes before a load is taken in. With an error, it is not.
	prepare(ctx context.Context) error
	// decode returns what takes in the value of a key. It may be called concurrently.
	decode(name string, value []byte) (take func() error, err error)
	// remove takes out what a key said.
	remove(name string)
	// loaded comes after a load was taken in. there reports whether a key exists.
	loaded(there func(name string) bool)
	// reject tells what cannot be read; what the key said before stays.
	reject(r store.Reject)
	// publish tells what is new, if anything is.
	publish()
}

// followRegistry tells the listener of the registry until ctx has ended or the store is closed.
func (s *Store) followRegistry(ctx context.Context, w *registryWatch) error {
	w.store, w.known, w.rejected, w.held = s, map[string]int64{}, map[string]string{}, map[string]bool{}
	w.feed = feed{store: s, prefix: s.registryPrefix(), to: w}
	return s.keepUp(ctx, w.what, w.feed.run)
}

// item is a key that is new or changed. take, which decode makes, takes in what it says.
type item struct {
	name     string
	revision int64
	value    []byte
	take     func() error
	err      error // of decode
}

// load implements reader. Keys that have the revision that they had before are not decoded again.
func (w *registryWatch) load(ctx context.Context, lost bool) (int64, error) {
	var fresh []*item
	seen := make(map[string]int64, len(w.known))
	revision, err := w.store.scan(ctx, w.feed.prefix, func(name string, kv *mvccpb.KeyValue) {
		seen[name] = kv.ModRevision
		if lost || w.known[name] != kv.ModRevision {
			fresh = append(fresh, &item{name: name, revision: kv.ModRevision, value: kv.Value})
		}
	})
	if err != nil {
		return 0, err
	}
	if err := w.to.prepare(ctx); err != nil {
		return 0, err
	}
	w.decodeAll(fresh)
	for name := range w.known {
		if _, there := seen[name]; !there {
			w.vanished(name, lost)
		}
	}
	for _, i := range fresh {
		w.put(i)
	}
	w.to.loaded(func(name string) bool {
		_, there := seen[name]
		return there || w.held[name]
	})
	return revision, nil
}

// change implements reader.
func (w *registryWatch) change(event *clientv3.Event) {
	name := string(event.Kv.Key[len(w.feed.prefix):])
	if event.Type == clientv3.EventTypeDelete {
		w.vanished(name, false)
		return
	}
	i := &item{name: name, revision: event.Kv.ModRevision, value: event.Kv.Value}
	i.take, i.err = w.to.decode(i.name, i.value)
	w.put(i)
}

// vanished takes out what is not there any more, unless it may come back: etcd lost it, or it is a pod whose node could not renew it.
func (w *registryWatch) vanished(name string, lost bool) {
	if _, known := w.known[name]; !known {
		return
	}
	settling := w.store.health.sinceLongOutage() < w.store.cfg.Holdover
	if !lost && !(settling && strings.HasPrefix(name, podsFolder)) {
		w.remove(name)
		return
	}
	if w.timer == nil {
		w.timer = time.NewTimer(w.store.cfg.Holdover)
		w.store.log.Warn("etcd lost "+w.what+" or pods, or pods expired in an outage; they hold on for a while", "time", w.store.cfg.Holdover)
	}
	w.timer.Reset(w.store.cfg.Holdover)
	w.held[name] = true
}

// due implements reader.
func (w *registryWatch) due() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

// elapse implements reader.
func (w *registryWatch) elapse() {
	for name := range w.held {
		w.remove(name)
	}
	clear(w.held)
	w.timer = nil
}

// publish implements reader.
func (w *registryWatch) publish() { w.to.publish() }

func (w *registryWatch) remove(name string) {
	delete(w.known, name)
	delete(w.rejected, name)
	w.to.remove(name)
}

// reject tells what cannot be read, once for each thing that is wrong with it.
func (w *registryWatch) reject(name string, err error) {
	if w.rejected[name] == err.Error() {
		return
	}
	w.rejected[name] = err.Error()
	w.to.reject(store.Reject{Key: name, Err: err})
	w.store.log.Debug("a record is skipped", "of", w.what, "key", name, "err", err)
}

// put takes in a key's decoded value. What cannot be read changes nothing but that it is told.
func (w *registryWatch) put(i *item) {
	w.known[i.name] = i.revision
	if w.held[i.name] {
		delete(w.held, i.name)
		w.timer.Reset(w.store.cfg.Holdover)
	}
	if i.err == nil {
		i.err = i.take()
	}
	if i.err != nil {
		w.reject(i.name, i.err)
		return
	}
	delete(w.rejected, i.name)
}

// decodeAll decodes items on all processors: JSON is most of what a load of many objects costs.
func (w *registryWatch) decodeAll(items []*item) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for part := range slices.Chunk(items, len(items)/runtime.GOMAXPROCS(0)+1) {
		workers.Go(func() {
			for _, i := range part {
				i.take, i.err = w.to.decode(i.name, i.value)
				i.value = nil
			}
		})
	}
}

// ignored is the take of keys that are somebody else's: those of another listener, or of a later version.
func ignored() error { return nil }
