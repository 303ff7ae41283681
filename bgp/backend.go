package bgp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// BackendType is what a lease of this backend bears.
const BackendType = "bgp"

// retryAfter is when the speaker is told again what it could not be.
const retryAfter = 5 * time.Second

// Planner says what a node publishes and which sessions it should hold. Its methods do no I/O.
type Planner interface {
	// Attributes returns what the node publishes by the last plan.
	Attributes(uplink kernel.Uplink) (store.Attributes, error)
	Plan(in PlanInput) Planned
}

// Planned is a plan.
type Planned struct {
	Instance Instance
	Rejects  []store.Reject
	Publish  *LeaseData    // what Attributes returns from now on; nil when it is the same as before this plan
	Again    time.Duration // after which the plan may be another although nothing happens; 0: never
}

// PlanInput is what sessions follow from, besides the configuration.
type PlanInput struct {
	Uplink   kernel.Uplink // without its Routes
	Self     *store.Lease
	Leases   []*store.Lease // sorted, as in a store.Snapshot
	Sessions []SessionState
	Services []ServiceAddress // that this node may announce
}

// Overlay carries packets to nodes that are not on the uplink's own network; *overlay.Backend is the real one.
type Overlay interface {
	Attributes(uplink kernel.Uplink) (store.Attributes, error)
	PodMTU(uplink kernel.Uplink) (int, error)
	Links(uplink kernel.Uplink, self *store.Lease) ([]kernel.Link, error)
	Fragments(uplink kernel.Uplink, self *store.Lease, leases []*store.Lease) ([]*kernel.Fragment, []store.Reject, error)
}

// Options are what a Backend works with.
type Options struct {
	Speaker Speaker
	Log     *slog.Logger

	// Restarting says that the kernel still forwards by what an earlier run learned.
	Restarting bool
	// Remember keeps what the node publishes for the next run, which has to go on from there. Its error is logged.
	Remember func(LeaseData) error
}

// Setup is what may change while a Backend works.
type Setup struct {
	Planner Planner
	Overlay Overlay // nil: packets are never encapsulated
	Always  bool    // nodes on the uplink's own network are reached through the overlay too
}

// Backend is the routing backend of one node. Attributes, PodMTU, Links, Fragments and Translated are called from one goroutine at a time; the
// other methods may be called at any time.
type Backend struct {
	opts    Options
	setup   atomic.Pointer[Setup]
	due     chan struct{} // of capacity 1: there is a plan to carry out
	changed atomic.Pointer[func()]

	mu       sync.Mutex
	plan     *Instance
	publish  *LeaseData // to be remembered; nil: nothing
	services []ServiceAddress

	planned planned
	again   *time.Timer // when the plan is made again; nil: not before something changes
	overdue atomic.Bool // that time has come
	render  renderer
	refused atomic.Pointer[[]store.Reject]
	leftOut atomic.Pointer[[]store.Reject]
}

// LearnedRoute is a learned route and what became of it.
type LearnedRoute struct {
	Prefix   netip.Prefix `json:"prefix"`
	NextHops []netip.Addr `json:"nextHops,omitempty"`
	Local    bool         `json:"local,omitempty"`  // this node's own announcement
	Origin   Origin       `json:"origin,omitempty"` // of the node's own announcement
	// Refused says why the kernel does not get the route, or not all of its next hops; empty: it does.
	Refused string `json:"refused,omitempty"`
}

// LeftOut is something of the configuration or of the cluster that the sessions were planned without.
type LeftOut struct {
	What string `json:"what"` // a peer, a lease, an announcement, the node's record
	Why  string `json:"why"`
}

// LeftOut returns what the sessions were planned without.
func (b *Backend) LeftOut() []LeftOut {
	out := []LeftOut{}
	if rejects := b.leftOut.Load(); rejects != nil {
		for _, r := range *rejects {
			out = append(out, LeftOut{What: r.Key, Why: r.Err.Error()})
		}
	}
	return out
}

// Routes returns the learned routes, sorted by prefix.
func (b *Backend) Routes() []LearnedRoute {
	refused := map[string]string{}
	if rejects := b.refused.Load(); rejects != nil {
		for _, r := range *rejects {
			refused[r.Key] = r.Err.Error()
		}
	}
	origins := b.origins()
	routes := []LearnedRoute{}
	for _, r := range b.opts.Speaker.Learned() {
		route := LearnedRoute{Prefix: r.Prefix, NextHops: r.NextHops, Local: r.Local, Refused: refused[owner(r)]}
		if r.Local {
			route.Origin = origins[r.Prefix]
		}
		routes = append(routes, route)
	}
	return routes
}

// origins returns where the announcements of the plan come from.
func (b *Backend) origins() map[netip.Prefix]Origin {
	b.mu.Lock()
	plan := b.plan
	b.mu.Unlock()
	all := map[netip.Prefix]Origin{}
	if plan != nil {
		for _, a := range plan.Announcements {
			all[a.Prefix] = a.Origin
		}
	}
	return all
}

// Sessions returns the state of all sessions, sorted by peer address.
func (b *Backend) Sessions() []SessionState { return b.opts.Speaker.Sessions() }

// Counters returns the same for metrics, see Speaker.
func (b *Backend) Counters() []SessionState { return b.opts.Speaker.Counters() }

// Paths calls visit for each path that the query matches.
func (b *Backend) Paths(ctx context.Context, query PathQuery, visit func(Path)) error {
	return b.opts.Speaker.Paths(ctx, query, visit)
}

// New returns a Backend that does nothing before Run.
func New(opts Options, setup Setup) *Backend {
	b := &Backend{opts: opts, due: make(chan struct{}, 1)}
	b.setup.Store(&setup)
	return b
}

// Change replaces the setup: the configuration was read again, say.
func (b *Backend) Change(setup Setup) {
	b.setup.Store(&setup)
	b.tell()
}

// Announce makes these the addresses of Services that the node may announce, instead of those before. The slice is not changed any more.
func (b *Backend) Announce(services []ServiceAddress) {
	b.mu.Lock()
	b.services = services
	b.mu.Unlock()
	b.tell()
}

func (b *Backend) tell() {
	if changed := b.changed.Load(); changed != nil {
		(*changed)()
	}
}

// Run runs the speaker, makes it follow the plan, and calls changed when Fragments would return something else. It returns when ctx
// has ended, or with an error when the speaker cannot go on.
func (b *Backend) Run(ctx context.Context, changed func()) error {
	b.changed.Store(&changed)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.opts.Speaker.Run(ctx, changed) })
	g.Go(func() error { return b.follow(ctx) })
	return g.Wait()
}

// follow hands each plan to the speaker.
func (b *Backend) follow(ctx context.Context) error {
	retry := time.NewTimer(retryAfter)
	retry.Stop()
	defer retry.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.due:
		case <-retry.C:
		}
		b.mu.Lock()
		plan, publish := *b.plan, b.publish
		b.publish = nil
		b.mu.Unlock()
		err := errors.Join(b.remember(publish), b.opts.Speaker.Set(ctx, plan))
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = ""
			continue
		case err.Error() != last:
			last = err.Error()
			b.opts.Log.Error("the BGP speaker is not as it should be; trying again", "err", err)
		}
		retry.Reset(retryAfter)
	}
}

func (b *Backend) remember(publish *LeaseData) error {
	if publish == nil || b.opts.Remember == nil {
		return nil
	}
	if err := b.opts.Remember(*publish); err != nil {
		b.mu.Lock()
		b.publish = cmp.Or(b.publish, publish)
		b.mu.Unlock()
		return fmt.Errorf("remember what the node publishes: %w", err)
	}
	return nil
}

// Settled reports whether what was learned is complete.
func (b *Backend) Settled() bool { return b.opts.Speaker.Settled() }

// Attributes implements node.Backend.
func (b *Backend) Attributes(uplink kernel.Uplink) (store.Attributes, error) {
	setup := b.setup.Load()
	attrs, err := setup.Planner.Attributes(uplink)
	if err != nil || setup.Overlay == nil {
		return attrs, err
	}
	tunnel, err := setup.Overlay.Attributes(uplink)
	if err != nil {
		return store.Attributes{}, err
	}
	if attrs.BackendData, err = merge(attrs.BackendData, tunnel.BackendData); err != nil {
		return store.Attributes{}, fmt.Errorf("publish the VTEP: %w", err)
	}
	if attrs.BackendV6Data, err = merge(attrs.BackendV6Data, tunnel.BackendV6Data); err != nil {
		return store.Attributes{}, fmt.Errorf("publish the IPv6 VTEP: %w", err)
	}
	return attrs, nil
}

// PodMTU returns the uplink's MTU, or that of the overlay when there is one: a pod cannot know on which way its packets go.
func (b *Backend) PodMTU(uplink kernel.Uplink) (int, error) {
	if overlay := b.setup.Load().Overlay; overlay != nil {
		return overlay.PodMTU(uplink)
	}
	return uplink.MTU, nil
}

// Links returns the overlay's devices.
func (b *Backend) Links(uplink kernel.Uplink, self *store.Lease) ([]kernel.Link, error) {
	if overlay := b.setup.Load().Overlay; overlay != nil {
		return overlay.Links(uplink, self)
	}
	return nil, nil
}

// Fragments plans the sessions anew where something changed, and returns what the kernel should hold for what was learned up to now: a
// blackhole for the node's own subnets and aggregates, so that packets to pods that are not there do not travel back to the router that
// sent them; what reaches nodes through the overlay; and the learned routes.
func (b *Backend) Fragments(uplink kernel.Uplink, self *store.Lease, leases []*store.Lease) ([]*kernel.Fragment, []store.Reject, error) {
	rejects := b.replan(uplink, self, leases)
	learned := b.opts.Speaker.Learned()
	tunnels, more, err := b.tunnels(side{uplink: uplink, self: self}, leases, learned)
	if err != nil {
		return nil, nil, err
	}
	fragments, refused := b.render.fragments(side{uplink: uplink, self: self, tunnels: tunnels}, learned)
	b.refused.Store(&refused)
	if b.planned.summaries != nil {
		fragments = append(fragments, b.planned.summaries)
	}
	return fragments, slices.Concat(rejects, more, refused), nil
}

// Translated returns the announced prefixes, as of the last call of Fragments, packets to which this node translates or has to drop. The slice is not
// changed any more.
func (b *Backend) Translated() []netip.Prefix { return b.planned.translated }

// tunnels returns what the overlay has for the nodes that are to be reached through it, by node address: all that are not on the uplink's
// own network, those that speak VXLAN only, and those that have not announced their pods yet. So a node that changes from VXLAN to BGP is
// reached through the overlay until there is a route to it.
func (b *Backend) tunnels(s side, leases []*store.Lease, learned []*Route) (map[netip.Addr]*kernel.Fragment, []store.Reject, error) {
	setup := b.setup.Load()
	if setup.Overlay == nil {
		return nil, nil, nil
	}
	byKey := map[string]*store.Lease{}
	var through []*store.Lease
	for _, l := range leases {
		if setup.Always || l.BackendType != BackendType || !s.uplink.OnLink(address(l)) || !announced(l, s.self, learned) {
			through = append(through, l)
			byKey[l.Key()] = l
		}
	}
	fragments, rejects, err := setup.Overlay.Fragments(s.uplink, s.self, through)
	if err != nil {
		return nil, nil, err
	}
	tunnels := make(map[netip.Addr]*kernel.Fragment, len(fragments))
	for _, f := range fragments {
		for _, addr := range []netip.Addr{byKey[f.Owner].PublicIP, byKey[f.Owner].PublicIPv6} {
			if addr.IsValid() {
				tunnels[addr] = f
			}
		}
	}
	return tunnels, rejects, nil
}

// announced reports whether there is a route to each of the lease's subnets of a family that this node has.
func announced(l, self *store.Lease, learned []*Route) bool {
	for _, pair := range [][2]netip.Prefix{{l.Subnet, self.Subnet}, {l.IPv6Subnet, self.IPv6Subnet}} {
		if !pair[0].IsValid() || !pair[1].IsValid() {
			continue
		}
		if _, ok := slices.BinarySearchFunc(learned, pair[0], func(r *Route, p netip.Prefix) int { return r.Prefix.Compare(p) }); !ok {
			return false
		}
	}
	return true
}

// address returns the node address that a session with the lease's node uses.
func address(l *store.Lease) netip.Addr {
	if l.PublicIP.IsValid() {
		return l.PublicIP
	}
	return l.PublicIPv6
}

// merge puts two JSON objects into one.
func merge(a, b json.RawMessage) (json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	for _, object := range []json.RawMessage{a, b} {
		if len(object) == 0 {
			continue
		}
		if err := json.Unmarshal(object, &all); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(all)
}
