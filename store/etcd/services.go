package etcd

import (
	"context"
	"maps"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/endpoints"
	"github.com/twill-cni/twill/store/manifest"
)

var _ store.ServiceSource = (*Store)(nil)

// WatchServices implements store.ServiceSource. The zone is not told: it is a label of the node's record, which WatchNode tells.
func (s *Store) WatchServices(ctx context.Context, emit func(store.ServiceChanges)) error {
	w := &serviceWatch{store: s, emit: emit, builder: endpoints.New(), known: map[string]int64{}, rejected: map[string]string{},
		services: map[store.ObjectName]*store.Service{}, written: map[store.ObjectName]*store.EndpointSlice{}, held: map[string]bool{}}
	w.feed = feed{store: s, prefix: s.registryPrefix(), to: w}
	w.clear()
	return s.keepUp(ctx, "Services", w.feed.run)
}

// serviceWatch is the state of one WatchServices. It belongs to one goroutine. Keys are without the registry's prefix.
type serviceWatch struct {
	store   *Store
	feed    feed
	emit    func(store.ServiceChanges)
	told    bool // the first reset
	pending store.ServiceChanges

	builder  *endpoints.Builder
	network  store.Network    // of pods
	known    map[string]int64 // all keys, and the revisions of their last change
	rejected map[string]string
	services map[store.ObjectName]*store.Service
	written  map[store.ObjectName]*store.EndpointSlice // those written by hand
	networks []netip.Prefix                            // as told; nil: not yet

	// held are keys that vanished because etcd lost them, or because pods could not be renewed in a long outage. They stay for a while, as
	// leases do (holdover.go).
	held  map[string]bool
	timer *time.Timer // runs while something is held; nil otherwise
}

func (w *serviceWatch) clear() {
	w.pending = store.ServiceChanges{Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{}}
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
func (w *serviceWatch) load(ctx context.Context, lost bool) (int64, error) {
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
	if err := w.readNetwork(ctx); err != nil {
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
	if _, configured := seen[registryConfig]; !configured && !w.held[registryConfig] {
		w.unconfigure()
	}
	return revision, nil
}

// readNetwork reads the pods' network, which Services' must not overlap. Until there is one nothing is told: no node can serve without. One that
// cannot be read later leaves what is known.
func (w *serviceWatch) readNetwork(ctx context.Context) error {
	network, err := w.store.Network(ctx)
	if err == nil {
		w.network = network
	} else if !w.told {
		return err
	}
	return nil
}

// change implements reader.
func (w *serviceWatch) change(event *clientv3.Event) {
	name := string(event.Kv.Key[len(w.feed.prefix):])
	if event.Type == clientv3.EventTypeDelete {
		w.vanished(name, false)
		return
	}
	i := &item{name: name, revision: event.Kv.ModRevision, value: event.Kv.Value}
	i.take, i.err = w.decode(i.name, i.value)
	w.put(i)
}

// vanished takes out what is not there any more, unless it may come back: etcd lost it, or it is a pod whose node could not renew it.
func (w *serviceWatch) vanished(name string, lost bool) {
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
		w.store.log.Warn("etcd lost Services or pods, or pods expired in an outage; they hold on for a while", "time", w.store.cfg.Holdover)
	}
	w.timer.Reset(w.store.cfg.Holdover)
	w.held[name] = true
}

// due implements reader.
func (w *serviceWatch) due() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

// elapse implements reader.
func (w *serviceWatch) elapse() {
	for name := range w.held {
		w.remove(name)
	}
	clear(w.held)
	w.timer = nil
}

func (w *serviceWatch) remove(name string) {
	delete(w.known, name)
	delete(w.rejected, name)
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case servicesFolder:
		if n, err := parseObjectName(rest); err == nil {
			w.setService(n, nil)
		}
	case slicesFolder:
		if n, err := parseObjectName(rest); err == nil {
			w.setSlice(n, nil)
		}
	case podsFolder:
		if key, err := parsePodKey(rest); err == nil {
			w.builder.SetPod(key, nil)
		}
	case registryConfig + "/":
		w.unconfigure()
	}
}

// unconfigure goes back to the defaults. That they cannot be used, since they overlap the pods' network, is told as if they were stored.
func (w *serviceWatch) unconfigure() {
	if err := w.configure(nil); err != nil {
		w.reject(registryConfig, err)
	}
}

// reject tells what cannot be read, once for each thing that is wrong with it.
func (w *serviceWatch) reject(name string, err error) {
	if w.rejected[name] == err.Error() {
		return
	}
	w.rejected[name] = err.Error()
	w.pending.Rejected = append(w.pending.Rejected, store.Reject{Key: name, Err: err})
	w.store.log.Debug("a record of Services is skipped", "key", name, "err", err)
}

// put takes in a key's decoded value. What cannot be read changes nothing but that it is told.
func (w *serviceWatch) put(i *item) {
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

// decodeAll decodes items on all processors: JSON is most of what a load of many Services costs.
func (w *serviceWatch) decodeAll(items []*item) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for part := range slices.Chunk(items, len(items)/runtime.GOMAXPROCS(0)+1) {
		workers.Go(func() {
			for _, i := range part {
				i.take, i.err = w.decode(i.name, i.value)
				i.value = nil
			}
		})
	}
}

// decode returns what takes in the value of a key. It may be called concurrently.
func (w *serviceWatch) decode(name string, value []byte) (take func() error, err error) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case servicesFolder:
		return w.decodeService(rest, value)
	case slicesFolder:
		return w.decodeSlice(rest, value)
	case podsFolder:
		key, err := parsePodKey(rest)
		if err != nil {
			return nil, err
		}
		p, err := store.DecodePod(key, value)
		return func() error { w.builder.SetPod(key, p); return nil }, err
	case registryConfig + "/":
		value := slices.Clone(value)
		return func() error { return w.configure(value) }, nil
	}
	return func() error { return nil }, nil // of a later version
}

func (w *serviceWatch) decodeService(rest string, value []byte) (func() error, error) {
	name, err := parseObjectName(rest)
	if err != nil {
		return nil, err
	}
	object, err := manifest.DecodeService(name, value)
	if err != nil {
		return nil, err
	}
	svc, err := manifest.FromService(object)
	return func() error { w.setService(name, svc); return nil }, err
}

func (w *serviceWatch) decodeSlice(rest string, value []byte) (func() error, error) {
	name, err := parseObjectName(rest)
	if err != nil {
		return nil, err
	}
	object, err := manifest.DecodeEndpointSlice(name, value)
	if err != nil {
		return nil, err
	}
	slice, err := manifest.FromEndpointSlice(object)
	return func() error { w.setSlice(name, slice); return nil }, err
}

func (w *serviceWatch) setService(name store.ObjectName, svc *store.Service) {
	if old := w.services[name]; (old == nil) == (svc == nil) && (old == nil || reflect.DeepEqual(old, svc)) {
		return
	}
	w.builder.SetService(name, svc)
	w.pending.Services[name] = svc
	if svc == nil {
		delete(w.services, name)
		return
	}
	w.services[name] = svc
}

func (w *serviceWatch) setSlice(name store.ObjectName, slice *store.EndpointSlice) {
	if old := w.written[name]; (old == nil) == (slice == nil) && (old == nil || reflect.DeepEqual(old, slice)) {
		return
	}
	w.pending.Slices[name] = slice
	if slice == nil {
		delete(w.written, name)
		return
	}
	w.written[name] = slice
}

// configure takes in the configuration, nil for none. One that cannot be used leaves the last good one; where there was none, there are no
// networks, so that no address is taken for a Service's that may be a pod's.
func (w *serviceWatch) configure(data []byte) error {
	config, err := store.ParseServiceConfig(data, w.network)
	if err != nil && w.networks != nil {
		return err
	}
	if w.networks == nil || !slices.Equal(w.networks, config.Networks) {
		w.networks = append([]netip.Prefix{}, config.Networks...) // not nil
		w.pending.Networks = append([]netip.Prefix{}, config.Networks...)
	}
	return err
}

// publish implements reader: it emits what is new, if anything is.
func (w *serviceWatch) publish() {
	maps.Copy(w.pending.Slices, w.builder.Take())
	if !w.told {
		w.pending.Reset, w.told = true, true
	} else if len(w.pending.Services)+len(w.pending.Slices)+len(w.pending.Rejected) == 0 && w.pending.Networks == nil {
		return
	}
	changes := w.pending
	w.clear()
	w.emit(changes)
}
