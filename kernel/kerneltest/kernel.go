package kerneltest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/twill-cni/twill/kernel"
)

// What a change fails with when the kernel refuses it.
var (
	ErrNoDevice = errors.New("no such device")
	ErrDown     = errors.New("network is down")
	ErrNotVXLAN = errors.New("operation not supported")
)

// Op names a method of Kernel or Tables.
type Op uint8

// The methods that FailNext can make fail.
const (
	DumpLinks Op = iota
	DumpFDB
	DumpNeighbors
	DumpRoutes
	ApplyLinks
	ApplyFDB
	ApplyNeighbors
	ApplyRoutes
)

// Origin says whose an object is.
type Origin uint8

// The origins.
const (
	Ours    Origin = iota // bears our mark (alias, protocol, permanent state): a dump returns it
	Foreign               // belongs to somebody else
)

// Counts are numbers of calls and messages, by kernel.Kind.
type Counts struct {
	Dumps   [kernel.NumKinds]int // dumps asked for
	Changes [kernel.NumKinds]int // changes asked for, failed ones among them
}

type object[V any] struct {
	value  V
	origin Origin
}

// Kernel is one network namespace in memory. Its methods may be called concurrently, and from the step hook; the
// observer must not call back.
type Kernel struct {
	mu        sync.Mutex
	links     map[string]object[kernel.Link]
	neighbors map[kernel.NeighborKey]object[kernel.Neighbor]
	fdb       map[kernel.FDBKey]object[kernel.FDBEntry]
	routes    map[kernel.RouteKey]object[kernel.Route]

	gateways map[kernel.NeighborKey]int // number of routes that use the neighbour as an on-link gateway
	macs     map[kernel.FDBKey]int      // number of neighbours that use the FDB entry

	failOps     map[Op][]error
	failObjects map[string][]error
	counts      Counts
	violations  []string
	events      []kernel.Event // made by the current step, not yet told

	observer func(kernel.Event)
	step     func()
}

// New returns an empty kernel.
func New() *Kernel {
	return &Kernel{
		links:       map[string]object[kernel.Link]{},
		neighbors:   map[kernel.NeighborKey]object[kernel.Neighbor]{},
		fdb:         map[kernel.FDBKey]object[kernel.FDBEntry]{},
		routes:      map[kernel.RouteKey]object[kernel.Route]{},
		gateways:    map[kernel.NeighborKey]int{},
		macs:        map[kernel.FDBKey]int{},
		failOps:     map[Op][]error{},
		failObjects: map[string][]error{},
	}
}

// Observe has f told of each notification, in order, from the goroutine that caused it and before the change's call
// returns.
func (k *Kernel) Observe(f func(kernel.Event)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.observer = f
}

// OnStep has f called in the middle of Apply calls: after each change, and before the first one of a call. Dumps call
// it after the answer was read and before it is returned.
func (k *Kernel) OnStep(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.step = f
}

// FailNext makes the next call of op fail with err: a dump returns it, an Apply call returns it for each of its
// changes and makes none. Calls add up.
func (k *Kernel) FailNext(op Op, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failOps[op] = append(k.failOps[op], err)
}

// FailObject makes the next change of one object fail with err. The object is named by how Dump's line for it starts:
// "link flannel.1", "route 10.1.2.0/24", "neighbor 10.1.2.0 dev flannel.1", "fdb 02:00:00:00:00:01 dev flannel.1".
// Calls add up.
func (k *Kernel) FailObject(object string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failObjects[object] = append(k.failObjects[object], err)
}

// Counts returns the numbers of calls and messages so far.
func (k *Kernel) Counts() Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counts
}

// Violations returns what the Apply calls did so far that left, at any step, a route to a missing neighbour or a
// neighbour to a missing FDB entry.
func (k *Kernel) Violations() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.violations)
}

// Links implements kernel.Kernel.
func (k *Kernel) Links(ctx context.Context, names []string) ([]kernel.Link, error) {
	return dump(ctx, k, request{DumpLinks, kernel.KindLink}, func() (links []kernel.Link) {
		for name, l := range k.links {
			if l.origin == Ours || slices.Contains(names, name) {
				link := cloneLink(l.value)
				link.Unmarked = l.origin == Foreign
				links = append(links, link)
			}
		}
		return links
	})
}

// Neighbors implements kernel.Kernel.
func (k *Kernel) Neighbors(ctx context.Context, links []string) ([]kernel.Neighbor, error) {
	return dump(ctx, k, request{DumpNeighbors, kernel.KindNeighbor}, func() []kernel.Neighbor {
		return ours(k.neighbors, func(n kernel.Neighbor) bool { return slices.Contains(links, n.Link) })
	})
}

// FDB implements kernel.Kernel.
func (k *Kernel) FDB(ctx context.Context, links []string) ([]kernel.FDBEntry, error) {
	return dump(ctx, k, request{DumpFDB, kernel.KindFDB}, func() []kernel.FDBEntry {
		return ours(k.fdb, func(e kernel.FDBEntry) bool { return slices.Contains(links, e.Link) })
	})
}

// Routes implements kernel.Kernel.
func (k *Kernel) Routes(ctx context.Context, _ []string) ([]kernel.Route, error) {
	return dump(ctx, k, request{DumpRoutes, kernel.KindRoute}, func() []kernel.Route {
		return ours(k.routes, func(kernel.Route) bool { return true })
	})
}

type request struct {
	op   Op
	kind kernel.Kind
}

func dump[V any](ctx context.Context, k *Kernel, req request, read func() []V) ([]V, error) {
	k.mu.Lock()
	k.counts.Dumps[req.kind]++
	err := ctx.Err()
	if err == nil {
		err = k.failing(req.op)
	}
	var all []V
	if err == nil {
		all = read()
	}
	k.mu.Unlock()
	k.finishStep()
	return all, err
}

func ours[K comparable, V any](objects map[K]object[V], covered func(V) bool) []V {
	var all []V
	for _, o := range objects {
		if o.origin == Ours && covered(o.value) {
			all = append(all, o.value)
		}
	}
	return all
}

// failing takes the error that the next call of op is to fail with.
func (k *Kernel) failing(op Op) error { return take(k.failOps, op) }

func take[K comparable](m map[K][]error, key K) error {
	errs := m[key]
	if len(errs) == 0 {
		return nil
	}
	m[key] = errs[1:]
	return errs[0]
}

// finishStep tells what the step notified and lets the hook run, with no lock held.
func (k *Kernel) finishStep() {
	k.tellEvents()
	k.mu.Lock()
	step := k.step
	k.mu.Unlock()
	if step != nil {
		step()
	}
}

func (k *Kernel) tellEvents() {
	k.mu.Lock()
	events, observer := k.events, k.observer
	k.events = nil
	k.mu.Unlock()
	if observer == nil {
		return
	}
	for _, ev := range events {
		observer(ev)
	}
}

func (k *Kernel) notify(ev kernel.Event) { k.events = append(k.events, ev) }

func onLinkGateways(r kernel.Route) []kernel.NeighborKey {
	var keys []kernel.NeighborKey
	for _, h := range r.NextHops {
		if h.OnLink && h.Gateway.IsValid() {
			keys = append(keys, kernel.NeighborKey{Link: h.Link, IP: h.Gateway})
		}
	}
	return keys
}

func hasIPv4(addrs []netip.Prefix) bool {
	return slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
}
