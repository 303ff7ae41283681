package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// Kernel is the handle on nftables; nft.Handle is the real one.
type Kernel interface {
	kernel.BulkTables
	// ListElements returns the elements of a small set; ENOENT when it or its table is not there. See nft.Handle.
	ListElements(family kernel.TableFamily, table, set string) ([]kernel.Element, error)
}

// Options are what an Enforcer works with. All of it is needed but Drops and CountDrops.
type Options struct {
	Source store.PolicySource
	Kernel Kernel
	// Conntrack works on the network namespace of the daemon.
	Conntrack Conntrack
	// Drops tells of refused packets until ctx ends; nil when nobody does.
	Drops func(ctx context.Context, each func(Packet), lost func(messages int)) error
	// CountDrops reads how many packets were refused; it is called before and after the rules are written, since those that are written anew count from 0. See
	// the function of that name; nil when nobody counts.
	CountDrops func(context.Context)

	// Records returns the records of the CNI plugin's attachments.
	Records func() ([]attachments.Record, error)
	// NodeAddrs returns the addresses of the node itself, those of its bridge among them.
	NodeAddrs func(ctx context.Context) ([]netip.Addr, error)
	// Hold keeps CNI plugins from changing what the kernel holds of local pods, until release is called; see gate.Hold.
	Hold func(ctx context.Context) (release func(), err error)
	// OwnPods: labels of this node's pods are taken from the records, and not from Source, which has them from there.
	OwnPods bool

	Network  string // CNI network whose attachments count
	NodeName string
	Table    filter.Config // but for NodePods, which SetHost tells

	Metrics *Metrics
	Log     *slog.Logger
	Jitter  func(d time.Duration) time.Duration // a random duration in [0, d)
}

// Enforcer enforces policies on one node. Make it with New.
type Enforcer struct {
	opts     Options
	progress *syncloop.Progress
	cutter   *cutter
	drops    *drops

	programmed chan struct{} // closed when the kernel holds what the source said at first

	loop    *syncloop.Loop
	rewatch chan struct{} // of capacity 1: the source is to tell everything again

	mu      sync.Mutex
	in      inbox
	waiters map[*waiter]struct{}

	listed atomic.Pointer[podList] // nil: nobody has asked

	// state is held during a sync, and by those who look at what is below.
	state     turn
	nodePods  []netip.Prefix        // nil: not known yet
	filter    *filter.Filter        // nil: likewise
	complete  bool                  // the filter was told all that there is
	early     []store.PolicyChanges // what came before there was a filter
	pods      *localPods
	vacancies vacancies
	policies  map[store.ObjectName]struct{} // of the cluster; a ClusterNetworkPolicy has no namespace
	table     kernel.Table                  // as it was written last
	release   func()                        // lets plugins go on; nil: they do
	compare   bool                          // the kernel's content is not known to be what the filter planned
	doubtful  bool                          // sets that elements belong in were not there
	synced    bool                          // the kernel has held what the source said at first
	changed   bool                          // verdicts differ since it was last asked to look at connections
	pressing  bool                          // see filter.Plan
	unwritten time.Time
	programs  uint64        // how often the kernel was written to, or compared
	compared  time.Duration // how long the last comparison took
}

// inbox is what came since the last sync began.
type inbox struct {
	changes  []store.PolicyChanges
	since    time.Time      // of the oldest change
	nodePods []netip.Prefix // nil: as before
	records  bool           // attachments may have changed
	drift    bool           // somebody else changed our table
	compare  bool           // it is time to compare everything
}

// New makes an Enforcer. Nothing happens before Run.
func New(opts Options) *Enforcer {
	e := &Enforcer{
		opts:       opts,
		progress:   syncloop.NewProgress(time.Now),
		programmed: make(chan struct{}),
		loop:       syncloop.New("policies", opts.Log),
		rewatch:    make(chan struct{}, 1),
		waiters:    map[*waiter]struct{}{},
		state:      newTurn(),
		pods:       newLocalPods(opts.Network, opts.NodeName, opts.OwnPods),
		policies:   map[store.ObjectName]struct{}{},
		in:         inbox{records: true},
	}
	e.cutter = newCutter(&opts)
	e.cutter.judge, e.cutter.after = e.judge, e.looked
	e.drops = newDrops(e.describe, opts.Metrics, opts.Log)
	opts.Metrics.follow(e.stats)
	return e
}

// SetNodePods says which networks the node's pods have their addresses from. The Enforcer waits for the first.
func (e *Enforcer) SetNodePods(networks []netip.Prefix) {
	e.put(func(in *inbox) { in.nodePods = slices.Clone(networks) })
}

// ObserveRecords says that the attachments' records may have changed.
func (e *Enforcer) ObserveRecords() { e.put(func(in *inbox) { in.records = true }) }

// Observe takes the kernel's notifications, of which those about the table count.
func (e *Enforcer) Observe(ev kernel.Event) {
	if ev.Lost || ev.Kind == kernel.KindTable && ev.Table == gate.TableName {
		e.opts.Metrics.drift.Inc()
		e.put(func(in *inbox) { in.drift = true })
	}
}

// put changes the inbox and wakes the loop.
func (e *Enforcer) put(f func(*inbox)) {
	e.mu.Lock()
	f(&e.in)
	e.mu.Unlock()
	e.progress.Queue()
	e.loop.Nudge()
}

func (e *Enforcer) take() inbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.in
	e.in = inbox{}
	return in
}

// Run follows the source until ctx ends. What it programmed stays. It returns when all of its goroutines have ended.
func (e *Enforcer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.watch(ctx) })
	g.Go(func() error {
		e.cutter.Run(ctx)
		return nil
	})
	g.Go(func() error {
		e.drops.Run(ctx, e.opts.Drops)
		return nil
	})
	g.Go(func() error {
		e.run(ctx)
		return nil
	})
	return g.Wait()
}

// watch follows the source. It starts over when everything is to be told again.
func (e *Enforcer) watch(ctx context.Context) error {
	for {
		watching, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- e.opts.Source.WatchPolicies(watching, e.told) }()
		var err error
		select {
		case err = <-ended:
		case <-e.rewatch:
			stop()
			<-ended
			e.forget()
			continue
		}
		stop()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			return errors.New("watch policies: the watch ended")
		}
		return fmt.Errorf("watch policies: %w", err)
	}
}

// forget drops changes that a watch told which has ended: the next one begins with a reset.
func (e *Enforcer) forget() {
	e.mu.Lock()
	e.in.changes = nil
	e.mu.Unlock()
	e.state.Lock()
	e.early = nil
	e.state.Unlock()
}

// told takes what the source tells.
func (e *Enforcer) told(c store.PolicyChanges) {
	e.put(func(in *inbox) {
		in.changes = append(in.changes, c)
		if in.since.IsZero() {
			in.since = time.Now()
		}
	})
}

// patience is for how long a change may wait before the node is not ready.
const patience = time.Minute

var (
	errNotSynced = errors.New("policies have not been read yet")
	errLate      = fmt.Errorf("a change of policies has been waiting for more than %s", patience)
)

// Programmed returns a channel that is closed once the kernel holds what the source told at first.
func (e *Enforcer) Programmed() <-chan struct{} { return e.programmed }

// Progress returns how the programming goes.
func (e *Enforcer) Progress() syncloop.State { return e.progress.State() }

// Ready returns nil when the kernel holds what the source told at first, and no change has been waiting for long; else why not.
func (e *Enforcer) Ready() error {
	s := e.progress.State()
	starting, late := s.Synced.IsZero(), s.Waiting > patience
	switch {
	case s.Err == nil && starting:
		return errNotSynced
	case s.Err == nil && late:
		return errLate
	case s.Err != nil && (starting || late):
		return fmt.Errorf("policies are not programmed: %w", s.Err)
	}
	return nil
}
