package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/proxy/config"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Kernel is the handle on nftables; nft.Handle is the real one.
type Kernel interface {
	kernel.BulkTables
	// ListElements returns the elements of a small set; see nft.Handle.
	ListElements(family kernel.TableFamily, table, set string) ([]kernel.Element, error)
}

// Options are what a Proxy works with. All of it is needed but Announce.
type Options struct {
	Source   store.ServiceSource
	Kernel   Kernel
	Config   *config.Config
	NodeName string
	// Conntrack works on the network namespace of the daemon.
	Conntrack Conntrack
	// Announce is told the addresses that routing may announce, sorted, at first and whenever they change. It must not wait.
	Announce func([]service.Route)
	Metrics  *Metrics
	Gatherer prometheus.Gatherer // of /metrics
	Log      *slog.Logger
}

// Host is what the proxy has to know of the host and the cluster's networks. A Host is never changed after it was made.
type Host struct {
	PodNetworks     []netip.Prefix // of the whole cluster
	NodePodNetworks []netip.Prefix // of this node
	Addrs           []netip.Addr   // the node's own, one of each family
	NodePortAddrs   []netip.Addr   // where node ports answer
	Zone            string         // the node's topology zone, unless the source of Services tells it
	// Bridged: packets between pods of the node do not pass netfilter; see dnat.Config.MasqueradeBridged.
	Bridged bool
}

func (h *Host) equal(o *Host) bool {
	return h.Bridged == o.Bridged && h.Zone == o.Zone && slices.Equal(h.PodNetworks, o.PodNetworks) && slices.Equal(h.NodePodNetworks, o.NodePodNetworks) &&
		slices.Equal(h.Addrs, o.Addrs) && slices.Equal(h.NodePortAddrs, o.NodePortAddrs)
}

// Proxy is the service proxy of one node. Make it with New.
type Proxy struct {
	opts    Options
	health  *health
	flusher *flusher
	checks  *checks

	loop *syncloop.Loop
	mu   sync.Mutex
	in   inbox

	// state is held during a sync, and by those who look at what is below.
	state     sync.Mutex
	host      *Host
	tracker   *service.Tracker
	routes    *service.Routes
	families  []*family
	announced bool                                  // Announce was told what the kernel holds
	started   bool                                  // the kernel has held what the source said at first
	stale     []conntrack.Match                     // to be removed once the kernel holds what made them stale
	unwritten inbox                                 // what was taken in and is not in the kernel yet; only its numbers and since count
	steered   map[store.ObjectName]*service.Service // those with a scheduler that goes by connections
	weights   weights                               // of their endpoints
	compared  time.Duration                         // how long the last comparison took
	endpoints int                                   // of all frontends
	programs  uint64                                // how often the kernel was written to, or compared
}

// inbox is what came since the last sync began.
type inbox struct {
	changes          []store.ServiceChanges
	services, slices int       // changes of each
	since            time.Time // of the oldest change
	host             *Host     // nil: as before
	drift            bool      // somebody else changed our tables
	weights          weights   // nil: as before
	compare          bool      // it is time to compare everything
}

// family is the table of one IP version.
type family struct {
	config  dnat.Config
	table   *dnat.Table
	compare bool // the kernel's content is not known to be what the table says
	fresh   bool // the table has not seen the kernel yet
	filling bool // the table was not in the kernel, and does not hold everything yet
}

// New makes a proxy. Nothing happens before Run.
func New(opts Options) *Proxy {
	p := &Proxy{
		opts:    opts,
		health:  newHealth(healthTimeout, time.Now),
		loop:    syncloop.New("Services", opts.Log),
		tracker: service.NewTracker(service.Node{Name: opts.NodeName, Scheduler: opts.Config.Scheduler, MasqueradeAll: opts.Config.MasqueradeAll}),
		routes:  service.NewRoutes(),
		steered: map[store.ObjectName]*service.Service{},
	}
	p.checks = newChecks(opts.Log, p.health.Healthy)
	p.flusher = newFlusher(opts.Conntrack, opts.Metrics, opts.Log)
	return p
}

// healthTimeout is for how long a change may wait before /healthz says so. It is that of kube-proxy with its default syncPeriod.
const healthTimeout = time.Minute

// SetHost says what the host is like. The proxy waits for the first.
func (p *Proxy) SetHost(h Host) {
	p.put(func(in *inbox) { in.host = &h })
}

// Observe takes the kernel's notifications, of which those about the proxy's tables count.
func (p *Proxy) Observe(ev kernel.Event) {
	if ev.Lost || ev.Kind == kernel.KindTable && ev.Table == dnat.TableName {
		p.opts.Metrics.drift.Inc()
		p.put(func(in *inbox) { in.drift = true })
	}
}

// put changes the inbox and wakes the loop.
func (p *Proxy) put(f func(*inbox)) {
	p.mu.Lock()
	f(&p.in)
	p.mu.Unlock()
	p.health.Queue()
	p.opts.Metrics.lastQueued.SetToCurrentTime()
	p.loop.Nudge()
}

func (p *Proxy) take() inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.in
	p.in = inbox{}
	return in
}

// Run follows the source until ctx ends. What it programmed stays. It returns when all of its goroutines have ended.
func (p *Proxy) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.opts.Source.WatchServices(ctx, p.changed)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			return errors.New("watch Services: the watch ended")
		}
		return fmt.Errorf("watch Services: %w", err)
	})
	g.Go(func() error { return p.flusher.Run(ctx) })
	g.Go(func() error { return p.checks.Run(ctx) })
	g.Go(func() error { return p.steer(ctx) })
	g.Go(func() error {
		p.run(ctx)
		return nil
	})
	c := p.opts.Config
	g.Go(func() error {
		return endpoint{c.HealthzAddress, p.healthHandler(), !c.BindHardFail, p.opts.Log}.Run(ctx)
	})
	g.Go(func() error {
		return endpoint{c.MetricsAddress, p.metricsHandler(), !c.BindHardFail, p.opts.Log}.Run(ctx)
	})
	return g.Wait()
}

// changed takes what the source tells.
func (p *Proxy) changed(c store.ServiceChanges) {
	for _, r := range c.Rejected {
		p.opts.Log.Error("object cannot be used; its last good state stays in force", "object", r.Key, "err", r.Err)
	}
	if c.NodeEligible != nil {
		p.health.setEligible(*c.NodeEligible)
	}
	m := p.opts.Metrics
	m.serviceChanges.Add(float64(len(c.Services)))
	m.endpointChanges.Add(float64(len(c.Slices)))
	m.servicePending.Add(float64(len(c.Services)))
	m.endpointPending.Add(float64(len(c.Slices)))
	p.put(func(in *inbox) {
		in.changes = append(in.changes, c)
		in.services += len(c.Services)
		in.slices += len(c.Slices)
		if in.since.IsZero() {
			in.since = time.Now()
		}
	})
}

func (p *Proxy) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz", promhttp.InstrumentHandlerCounter(p.opts.Metrics.healthz, http.HandlerFunc(p.health.healthz)))
	mux.Handle("/livez", promhttp.InstrumentHandlerCounter(p.opts.Metrics.livez, http.HandlerFunc(p.health.livez)))
	return mux
}

func (p *Proxy) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.opts.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = fmt.Fprint(w, "nftables") // the client may be gone
	})
	return mux
}

// Progress returns how the programming goes.
func (p *Proxy) Progress() syncloop.State { return p.health.State() }

// Ready returns nil when the kernel holds what the source told at first, else why it does not.
func (p *Proxy) Ready() error {
	switch s := p.health.State(); {
	case !s.Synced.IsZero():
		return nil
	case s.Err != nil:
		return fmt.Errorf("service proxy: %w", s.Err)
	}
	return errNotSynced
}
