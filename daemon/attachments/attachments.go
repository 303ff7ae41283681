package attachments

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/store"
)

// ErrNoNetwork says that the daemon's own network has no configuration yet, so that nobody can have attached a pod to it.
var ErrNoNetwork = errors.New("the network is not configured yet")

// Record is an attachment's record as it was found.
type Record struct {
	attach.Record
	Complete bool  // its ADD came to its end, and no DEL has begun
	Adding   bool  // its ADD runs at this moment
	Damage   error // why it cannot be read: then it has network and owner alone
}

// Host is what the attachments of one node consist of. All methods are called from one goroutine.
type Host interface {
	// Records returns the records of all networks. One that is there during the whole call is among them.
	Records() ([]Record, error)
	// Leases returns the addresses that the daemon's own network has given out. The error wraps ErrNoNetwork or ipam.ErrDamaged; with
	// the latter the list is whole.
	Leases() ([]ipam.Lease, error)
	// NetnsGone reports whether the path of a network namespace leads nowhere or to something other than that inode; 0 stands for
	// an inode that is not known. It is false when that cannot be told.
	NetnsGone(path string, inode uint64) bool

	// Exclusively calls f while no ADD of the daemon's own network runs, and none can begin. It returns false, and has not called f, when one runs.
	Exclusively(f func()) (bool, error)
	// Release does what the plugin's DEL does, in the daemon's own network.
	Release(ctx context.Context, owner kernel.PodOwner) error

	PodLinks() ([]kernel.PodLink, error)
	PodLink(name string) (kernel.PodLink, bool, error)
	UpPair(hostLink string) error
	Shapers() (map[string]kernel.PodOwner, error)
	Unshape(device string, owner kernel.PodOwner) (bool, error)

	// RevisePorts calls revise with the elements of the table of host ports and makes the table hold what it returns, unless that is nil. It
	// starts over when nftables changed meanwhile. It reports whether anything was changed.
	RevisePorts(ctx context.Context, revise func(have hostport.Elements) (hostport.Elements, error)) (bool, error)
	// FlushUDP makes the kernel forget the UDP flows to the pod's host ports.
	FlushUDP(ctx context.Context, pod hostport.Pod) error
	// Localnet reports whether route_localnet is set on a bridge; it is not on one that does not exist.
	Localnet(bridge string) (bool, error)
	// AllowLocalnet sets it. A bridge that does not exist is no error.
	AllowLocalnet(bridge string) error
}

// Observer counts what was done; the metrics are one.
type Observer interface {
	// Released is told of a dead pod's release.
	Released()
	// PortsRepaired is told how many elements of host ports were put back or removed; 1 when rules alone were repaired.
	PortsRepaired(elements int)
	// LinkRepaired is told of a pod's link that was set up again.
	LinkRepaired()
}

// Options are what a Keeper works with.
type Options struct {
	Host     Host
	Network  string // the daemon's own CNI network
	Bridge   string // of that network
	Log      *slog.Logger
	Observer Observer
	// Tell is told of what somebody who looks at a pod should know; nil when nobody wants to. It returns at once.
	Tell func(store.Event)
	// Delay is for how long a pod must have been seen dead before it is released.
	Delay time.Duration
	// Jitter returns a random duration in [0, d); it spreads the resyncs of many nodes.
	Jitter func(d time.Duration) time.Duration
}

const (
	// What a burst of notifications costs is bounded by these; see the package comment.
	portsDelay   = 20 * time.Millisecond
	portsSpacing = 200 * time.Millisecond
	portsAgain   = 500 * time.Millisecond // the look after a change
	linksDelay   = 100 * time.Millisecond // a DEL's link is gone by then
	busyDelay    = time.Second            // ADDs ran, so that nothing could be released
	retryDelay   = 5 * time.Second        // after a failure

	// A first look at what may be dead waits for this part of Delay after a link vanished, so that it serves a whole burst of DELs.
	settlePart = 6

	resyncEvery  = 5 * time.Minute
	resyncJitter = time.Minute
)

// Keeper looks after one node's attachments. Make it with New.
type Keeper struct {
	opts Options
	wake chan struct{} // of capacity 1: something is marked

	mu    sync.Mutex
	marks marks

	// What follows is Run's alone.
	ledger     ledger
	localnet   map[string]bool // bridges that host ports are reached through by way of localhost
	strangers  map[kernel.PodOwner]bool
	complaints map[string]string // what was last complained of, by task
}

// marks say what is to be looked at.
type marks struct {
	ports    bool
	dead     bool
	localnet bool
	links    map[string]bool // names of links that were set down
	allLinks bool
}

// New returns a Keeper that does nothing before Run.
func New(opts Options) *Keeper {
	return &Keeper{
		opts: opts, wake: make(chan struct{}, 1), ledger: ledger{}, localnet: map[string]bool{},
		strangers: map[kernel.PodOwner]bool{}, complaints: map[string]string{},
	}
}

// Observe takes note of an event of the kernel. It may be called at any time, from any goroutine, and returns at once.
func (k *Keeper) Observe(ev kernel.Event) {
	switch {
	case ev.Lost:
		k.Resync()
	case ev.Kind == kernel.KindTable && ev.Table == hostport.TableName:
		k.mark(func(m *marks) { m.ports = true })
	case ev.Kind == kernel.KindLink && ev.Pod && ev.Deleted:
		k.mark(func(m *marks) { m.dead = true })
	case ev.Kind == kernel.KindLink && ev.Pod:
		k.mark(func(m *marks) { m.links[ev.Link] = true })
	case ev.Kind == kernel.KindLink && ev.Link == k.opts.Bridge:
		k.mark(func(m *marks) { m.localnet = true })
	}
}

// Resync has everything looked at: notifications may have been missed.
func (k *Keeper) Resync() {
	k.mark(func(m *marks) { m.ports, m.dead, m.localnet, m.allLinks = true, true, true, true })
}

func (k *Keeper) mark(set func(*marks)) {
	k.mu.Lock()
	if k.marks.links == nil {
		k.marks.links = map[string]bool{}
	}
	set(&k.marks)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (k *Keeper) take() marks {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.marks
	k.marks = marks{}
	return m
}

// Run looks after the attachments until ctx ends. It must be called once.
func (k *Keeper) Run(ctx context.Context) error {
	ports, links, dead := newTask(portsSpacing), newTask(portsSpacing), newTask(0)
	resync := time.NewTimer(k.resyncIn())
	defer ports.stop()
	defer links.stop()
	defer dead.stop()
	defer resync.Stop()
	k.Resync()
	var down marks // links to look at
	begin := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-resync.C:
			k.Resync()
			resync.Reset(k.resyncIn())
		case <-k.wake:
			m := k.take()
			if m.ports {
				ports.in(portsDelay)
			}
			if m.localnet {
				k.keepLocalnet()
			}
			if m.allLinks || len(m.links) > 0 {
				down.join(m)
				links.in(linksDelay)
			}
			if m.dead && begin {
				dead.in(0)
			} else if m.dead {
				dead.in(k.opts.Delay / settlePart)
			}
			begin = false
		case <-ports.C():
			ports.began()
			ports.in(k.keepPorts(ctx))
		case <-links.C():
			links.began()
			if k.keepLinks(down) {
				down = marks{}
			} else {
				links.in(retryDelay)
			}
		case <-dead.C():
			dead.began()
			dead.in(k.releaseDead(ctx))
		}
	}
}

func (k *Keeper) resyncIn() time.Duration { return resyncEvery + k.opts.Jitter(resyncJitter) }

// join adds the links that o names.
func (m *marks) join(o marks) {
	if m.links == nil {
		m.links = map[string]bool{}
	}
	for name := range o.links {
		m.links[name] = true
	}
	m.allLinks = m.allLinks || o.allLinks
}

// complain logs that a task fails, once for each reason, and that it does no more.
func (k *Keeper) complain(task string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch last := k.complaints[task]; {
	case text == last:
	case text == "":
		k.opts.Log.Info("it succeeds again", "task", task)
	default:
		k.opts.Log.Warn("looking after attachments failed; trying again", "task", task, "err", err)
	}
	k.complaints[task] = text
}
