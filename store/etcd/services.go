package etcd

import (
	"context"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/endpoints"
	"github.com/twill-cni/twill/store/manifest"
)

var _ store.ServiceSource = (*Store)(nil)

// WatchServices implements store.ServiceSource. The zone is not told: it is a label of the node's record, which WatchNode tells.
func (s *Store) WatchServices(ctx context.Context, emit func(store.ServiceChanges)) error {
	w := &serviceWatch{store: s, emit: emit, builder: endpoints.New(),
		services: map[store.ObjectName]*store.Service{}, written: map[store.ObjectName]*store.EndpointSlice{}}
	w.keys = &registryWatch{what: "Services", to: w}
	w.clear()
	return s.followRegistry(ctx, w.keys)
}

// serviceWatch is the state of one WatchServices.
type serviceWatch struct {
	store   *Store
	keys    *registryWatch
	emit    func(store.ServiceChanges)
	told    bool // the first reset
	pending store.ServiceChanges

	builder  *endpoints.Builder
	network  store.Network // of pods
	services map[store.ObjectName]*store.Service
	written  map[store.ObjectName]*store.EndpointSlice // those written by hand
	networks []netip.Prefix                            // as told; nil: not yet
}

func (w *serviceWatch) clear() {
	w.pending = store.ServiceChanges{Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{}}
}

// prepare implements listener. It reads the pods' network, which Services' must not overlap. Until there is one nothing is told: no node can serve
// without. One that cannot be read later leaves what is known.
func (w *serviceWatch) prepare(ctx context.Context) error {
	network, err := w.store.Network(ctx)
	if err == nil {
		w.network = network
	} else if !w.told {
		return err
	}
	return nil
}

// loaded implements listener.
func (w *serviceWatch) loaded(there func(string) bool) {
	if !there(registryConfig) {
		w.unconfigure()
	}
}

// remove implements listener.
func (w *serviceWatch) remove(name string) {
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
		w.keys.reject(registryConfig, err)
	}
}

// reject implements listener.
func (w *serviceWatch) reject(r store.Reject) { w.pending.Rejected = append(w.pending.Rejected, r) }

// decode implements listener.
func (w *serviceWatch) decode(name string, value []byte) (take func() error, err error) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case servicesFolder:
		return w.decodeService(rest, value)
	case slicesFolder:
		return w.decodeSlice(rest, value)
	case podsFolder:
		return decodePod(rest, value, w.builder.SetPod)
	case registryConfig + "/":
		value := slices.Clone(value)
		return func() error { return w.configure(value) }, nil
	}
	return ignored, nil
}

// decodePod returns what hands on the pod of a key below podsFolder.
func decodePod(rest string, value []byte, set func(store.PodKey, *store.Pod)) (func() error, error) {
	key, err := parsePodKey(rest)
	if err != nil {
		return nil, err
	}
	p, err := store.DecodePod(key, value)
	return func() error { set(key, p); return nil }, err
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

// publish implements listener.
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
