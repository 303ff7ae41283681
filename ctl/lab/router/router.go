package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/reconcile"
)

// Config is what the router is. Every field is required, and one of the families.
type Config struct {
	AS       uint32
	RouterID netip.Addr // IPv4 form
	NodesAS  uint32     // of all nodes
	Subnets  []Subnet
	IPv4     bool
	IPv6     bool
}

// Subnet is a network that the router is connected to. Nodes may connect from it and be next hops in it; a route that overlaps it is
// refused.
type Subnet struct {
	Link   string
	Prefix netip.Prefix // masked
}

// Parts are what the router works with.
type Parts struct {
	Speaker bgp.Speaker
	Kernel  kernel.Kernel
	Monitor Monitor
	Log     *slog.Logger
}

// Monitor tells what changes in the kernel; linux.Monitor is the real one.
type Monitor interface {
	Run(ctx context.Context, emit func(kernel.Event)) error
}

// Intervals of the sessions: as short as those between nodes.
var (
	timers   = bgp.Timers{Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second}
	graceful = bgp.GracefulRestart{RestartTime: 30 * time.Second, StaleTime: 10 * time.Second}
)

// retry is the pause after a sync that failed.
const retry = time.Second

// Serve routes until ctx ends, and calls ready once nodes can connect. Routes stay in the kernel at the end: the next run takes them
// over, and removes those that no node announces any more when all nodes have had their say.
func Serve(ctx context.Context, config Config, with Parts, ready func()) error {
	left, err := with.Kernel.Routes(ctx, nil)
	if err != nil {
		return fmt.Errorf("read the routes of an earlier run: %w", err)
	}
	s := &server{config: config, with: with, dirty: make(chan struct{}, 1), reconciler: reconcile.New(with.Kernel, noTables{}, with.Log)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return with.Speaker.Run(ctx, s.mark) })
	g.Go(func() error {
		return with.Monitor.Run(ctx, func(ev kernel.Event) {
			if s.reconciler.Observe(ev) {
				s.mark()
			}
		})
	})
	g.Go(func() error {
		if err := with.Speaker.Set(ctx, instance(config, len(left) > 0)); err != nil {
			return fmt.Errorf("start the BGP speaker: %w", err)
		}
		ready()
		return s.loop(ctx)
	})
	return g.Wait()
}

// instance is what the speaker should be.
func instance(c Config, restarting bool) bgp.Instance {
	want := bgp.Instance{AS: c.AS, RouterID: c.RouterID, Port: 179, IPv4: c.IPv4, IPv6: c.IPv6, Restarting: restarting}
	for _, s := range c.Subnets {
		settings := bgp.Settings{AS: c.NodesAS, Timers: timers, Graceful: &graceful}
		want.Ranges = append(want.Ranges, bgp.Range{Name: "nodes on " + s.Link, Prefix: s.Prefix, Settings: settings})
	}
	return want
}

type server struct {
	config     Config
	with       Parts
	reconciler *reconcile.Reconciler
	dirty      chan struct{}
	memo       kernel.Memo[*bgp.Route, *kernel.Fragment]
}

// mark asks for a sync. It never waits.
func (s *server) mark() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

func (s *server) loop(ctx context.Context) error {
	again := time.NewTimer(0) // the first sync takes stock
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.dirty:
		case <-again.C:
		}
		if _, err := s.reconciler.Sync(ctx, s.desired()); err != nil && ctx.Err() == nil {
			s.with.Log.Warn("the routes are not as they should be; trying again", "err", err)
			again.Reset(retry)
		}
	}
}

// desired is what the kernel should hold for what was learned.
func (s *server) desired() kernel.State {
	settled := s.with.Speaker.Settled() // asked first: what is learned in between is complete then, too
	state := kernel.State{KeepStale: !settled}
	for _, f := range s.memo.Render(s.with.Speaker.Learned(), kernel.Renderer[*bgp.Route, *kernel.Fragment]{
		Compare: func(a, b *bgp.Route) int { return a.Prefix.Compare(b.Prefix) },
		Owner:   func(r *bgp.Route) string { return r.Prefix.String() },
		Render:  s.config.fragment,
	}) {
		if f != nil {
			state.Fragments = append(state.Fragments, f)
		}
	}
	return state
}

// fragment returns nil for what the router does not route by: what it announced itself, what would cut it off from its nodes, and what no
// node of its subnets is the next hop of.
func (c Config) fragment(r *bgp.Route) *kernel.Fragment {
	if r.Local || slices.ContainsFunc(c.Subnets, func(s Subnet) bool { return s.Prefix.Overlaps(r.Prefix) }) {
		return nil
	}
	route := kernel.Route{Dst: r.Prefix}
	for _, hop := range r.NextHops {
		for _, s := range c.Subnets {
			if s.Prefix.Contains(hop) {
				route.NextHops = append(route.NextHops, kernel.NextHop{Gateway: hop, Link: s.Link})
			}
		}
	}
	if len(route.NextHops) == 0 {
		return nil
	}
	slices.SortFunc(route.NextHops, kernel.NextHop.Compare)
	return &kernel.Fragment{Owner: r.Prefix.String(), Routes: []kernel.Route{route}}
}

// noTables is the nftables of a router that has no rules.
type noTables struct{}

func (noTables) SyncTables(context.Context, []kernel.Table, []string) error { return nil }
func (noTables) Resync()                                                    {}
