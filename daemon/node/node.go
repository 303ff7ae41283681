package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/store"
)

// Bridge is the name of the bridge that pods are attached to.
const Bridge = "cni0"

// Backend is one way for nodes to reach each other's pods. Its methods are called from one goroutine at a time and do no I/O.
type Backend interface {
	// Attributes returns what the node publishes of itself when it has this uplink.
	Attributes(uplink kernel.Uplink) (store.Attributes, error)
	// PodMTU returns the MTU of the pod network in bytes.
	PodMTU(uplink kernel.Uplink) (int, error)
	// Links returns the backend's devices; self is the node's own lease.
	Links(uplink kernel.Uplink, self *store.Lease) ([]kernel.Link, error)
	// Fragments returns what reaches the peers among leases, and those that cannot be reached. The same lease under the same
	// circumstances yields the same pointer again.
	Fragments(uplink kernel.Uplink, self *store.Lease, leases []*store.Lease) ([]*kernel.Fragment, []store.Reject, error)
}

// Learner is a Backend that learns how to reach peers from elsewhere than the datastore: from a routing protocol.
type Learner interface {
	Backend
	// Run learns until ctx ends and calls changed whenever Fragments would return something else. It returns an error only when it cannot
	// go on.
	Run(ctx context.Context, changed func()) error
	// Settled reports whether what was learned is complete. Until it is, the kernel keeps what an earlier run left there.
	Settled() bool
}

// Dataplane makes the kernel hold a State; *reconcile.Reconciler is the real one. Observe may be called while Sync runs.
type Dataplane interface {
	Sync(ctx context.Context, want kernel.State) (reconcile.Result, error)
	Observe(ev kernel.Event) bool
	Resync()
}

// Monitor reports the kernel's notifications; *linux.Monitor is the real one.
type Monitor interface {
	// SetLinks names the links of interest. It may be called while Run runs.
	SetLinks(names []string) error
	// Run calls emit with each event, from several goroutines maybe, until ctx ends; any other end is an error. It closes
	// the monitor.
	Run(ctx context.Context, emit func(kernel.Event)) error
	// Close releases a monitor that was not run.
	Close() error
}

// Host is what the daemon leaves on the host besides kernel state.
type Host interface {
	// Preferred returns the subnets that this node had when it last served, if that is known.
	Preferred() []store.Subnets
	// Announce makes the node usable by the container runtime. It writes only what differs.
	Announce(a Announcement) error
}

// Announcement is what a container runtime and its plugins must know of the node.
type Announcement struct {
	Network store.Network
	Subnets store.Subnets
	MTU     int // of the pod network, bytes
}

// Observer is told of each sync; the metrics are one.
type Observer interface {
	Synced(r Report)
}

// Report tells how a sync went.
type Report struct {
	End      time.Time
	Duration time.Duration
	Err      error
	Result   reconcile.Result
	Peers    int  // peers that the State reaches
	Rejected int  // records and peers that were skipped
	Learning bool // the backend has not learned all that there is: what seems stale was left
	Behind   bool // of the first syncs: peers came while it ran, which the next one programs
	Drift    bool // a notification of the kernel asked for it: changes put right what another program did
}

// Options are what a Node works with. All but Tables, BridgeMAC, Forwarding, Housekeeping and Observer are needed.
type Options struct {
	Store     store.Store
	Dataplane Dataplane
	Host      Host
	Log       *slog.Logger

	// Kernel returns an error that wraps kernel.ErrUnsupported while the kernel lacks something that the network needs. It is asked before anything
	// else, until it has no such error. May be nil.
	Kernel func(store.Network) error
	// Leftovers returns an error that wraps kernel.ErrInTheWay while another network has something on this host that must not be taken from it.
	// It is asked before the kernel is changed, until it has no error. May be nil.
	Leftovers func(context.Context, store.Subnets) error

	// Backend makes the backend for the stored network configuration. It fails when the node was told to speak another one.
	Backend func(store.Network) (Backend, error)
	// Uplink finds the uplink, with an address of each family that the network has.
	Uplink func(store.Network) (kernel.Uplink, error)
	// Monitor subscribes to the kernel's notifications.
	Monitor func() (Monitor, error)

	// Tables returns the nftables tables that belong to the node.
	Tables func(store.Network, store.Subnets) []kernel.Table
	// BridgeMAC returns the address of the bridge that is there, which pods know; zero when there is none. It is kept.
	BridgeMAC func(context.Context) (kernel.MAC, error)
	// Forwarding makes sure that the kernel forwards packets of these families.
	Forwarding func(ipv4, ipv6 bool) error
	// Housekeeping runs with every full resync; what is left of dead pods is cleared here. Its error is logged.
	Housekeeping func(context.Context) error
	// Observer is told of each sync.
	Observer Observer

	// Jitter returns a random duration in [0, d); it spreads the retries and resyncs of many nodes.
	Jitter func(d time.Duration) time.Duration
}

// Node serves one node. Make it with New.
type Node struct {
	opts   Options
	status *Status

	snapshot atomic.Pointer[store.Snapshot] // the latest; nil before the first
	wanted   atomic.Pointer[Wanted]         // what the last sync was for; nil before the first
	wake     chan struct{}                  // of capacity 1: something is dirty
	marks    marks
}

// marks say what is dirty. They are set from any goroutine and taken by the loop.
type marks struct {
	mu  sync.Mutex
	set mark
}

type mark uint8

const (
	markSnapshot mark = 1 << iota // the cluster said something
	markDrift                     // the kernel differs from what was programmed
	markUplink                    // the uplink may have changed
	markResync                    // read everything again
	markRetry                     // the last sync failed
	markLearned                   // the backend learned something
)

// New returns a Node that does nothing before Run.
func New(opts Options) *Node {
	return &Node{
		opts:   opts,
		status: &Status{store: opts.Store, state: errStarting},
		wake:   make(chan struct{}, 1),
	}
}

// Status returns the node's health, which may be asked at any time.
func (n *Node) Status() *Status { return n.status }

// Run serves until ctx ends, and then returns nil and leaves the kernel as it is. It returns an error only for what retrying
// cannot mend: a configuration that does not fit this node. It must be called once.
func (n *Node) Run(ctx context.Context) error {
	s, err := n.start(ctx)
	if ctx.Err() != nil {
		return nil // also when that is what start failed for
	}
	if err != nil {
		return err
	}
	// Before the first sync reads the kernel, so that it needs not be read twice. A failure is retried by the watcher.
	if err := s.watcher.open(); err != nil {
		n.opts.Log.Debug("the kernel cannot be watched yet", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.watchStore(ctx) })
	g.Go(func() error { return s.watcher.run(ctx) })
	g.Go(func() error { return s.serve(ctx) })
	if s.learner != nil {
		g.Go(func() error { return s.learner.Run(ctx, func() { n.mark(markLearned) }) })
	}
	return g.Wait()
}

// watchStore keeps the latest snapshot.
func (n *Node) watchStore(ctx context.Context) error {
	err := n.opts.Store.Watch(ctx, func(snap store.Snapshot) {
		n.snapshot.Store(&snap)
		n.mark(markSnapshot)
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the datastore: %w", err)
}

// mark sets marks and wakes the loop.
func (n *Node) mark(m mark) {
	n.marks.mu.Lock()
	n.marks.set |= m
	n.marks.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default: // it is awake already
	}
}

// take returns the marks and clears them.
func (n *Node) take() mark {
	n.marks.mu.Lock()
	defer n.marks.mu.Unlock()
	m := n.marks.set
	n.marks.set = 0
	return m
}
