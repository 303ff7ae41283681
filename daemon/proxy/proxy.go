package proxy

import (
	"context"
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
	// Flush removes conntrack entries in the network namespace of the daemon.
	Flush func(context.Context, conntrack.Match) error
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
}

func (h *Host) equal(o *Host) bool {
	return slices.Equal(h.PodNetworks, o.PodNetworks) && slices.Equal(h.NodePodNetworks, o.NodePodNetworks) &&
		slices.Equal(h.Addrs, o.Addrs) && slices.Equal(h.NodePortAddrs, o.NodePortAddrs)
}

// Proxy is the service proxy of one node. Make it with New.
type Proxy struct {
	opts    Options
	health  *health
	flusher *flusher
	checks  *checks

	wake chan struct{} // of capacity 1
	mu   sync.Mutex
	in   inbox

	// state is held during a sync, and by those who look at what is below.
	state     sync.Mutex
	host      *Host
	tracker   *service.Tracker
	routes    *service.Routes
	families  []*family
	announced bool
}

// inbox is what came since the last sync began.
type inbox struct {
	changes []store.ServiceChanges
	since   time.Time // of the oldest
	host    *Host     // nil: as before
	drift   bool      // somebody else changed our tables
}

// family is the table of one IP version.
type family struct {
	config  dnat.Config
	table   *dnat.Table
	compare bool // the kernel's content is not known to be what the table says
	fresh   bool // the table has not seen the kernel yet
}

// New makes a proxy. Nothing happens before Run.
func New(opts Options) *Proxy {
	p := &Proxy{
		opts:    opts,
		health:  newHealth(healthTimeout, time.Now),
		wake:    make(chan struct{}, 1),
		tracker: service.NewTracker(service.Node{Name: opts.NodeName, Scheduler: opts.Config.Scheduler, MasqueradeAll: opts.Config.MasqueradeAll}),
		routes:  service.NewRoutes(),
	}
	p.checks = newChecks(opts.Log, p.health.Healthy)
	p.flusher = newFlusher(opts.Flush, opts.Metrics, opts.Log)
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
		p.put(func(in *inbox) { in.drift = true })
	}
}

// put changes the inbox and wakes the loop.
func (p *Proxy) put(f func(*inbox)) {
	p.mu.Lock()
	f(&p.in)
	if p.in.since.IsZero() {
		p.in.since = time.Now()
	}
	p.mu.Unlock()
	p.health.queue()
	p.opts.Metrics.lastQueued.SetToCurrentTime()
	p.nudge()
}

func (p *Proxy) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Proxy) take() inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.in
	p.in = inbox{}
	p.opts.Metrics.servicePending.Set(0)
	p.opts.Metrics.endpointPending.Set(0)
	return in
}

// Run follows the source until ctx ends. What it programmed stays.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.checks.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.opts.Source.WatchServices(ctx, p.changed)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch Services: %w", err)
	})
	g.Go(func() error { return p.flusher.Run(ctx) })
	g.Go(func() error {
		p.loop(ctx)
		return nil
	})
	retry := !p.opts.Config.BindHardFail
	g.Go(func() error {
		return serveHTTP(ctx, p.opts.Config.HealthzAddress, p.healthHandler(), retry, p.opts.Log)
	})
	g.Go(func() error {
		return serveHTTP(ctx, p.opts.Config.MetricsAddress, p.metricsHandler(), retry, p.opts.Log)
	})
	return g.Wait()
}

// changed takes what the source tells.
func (p *Proxy) changed(c store.ServiceChanges) {
	for _, r := range c.Rejected {
		p.opts.Log.Error("object cannot be used; its last good state stays in force", "object", r.Key, "err", r.Err)
	}
	m := p.opts.Metrics
	m.serviceChanges.Add(float64(len(c.Services)))
	m.endpointChanges.Add(float64(len(c.Slices)))
	m.servicePending.Add(float64(len(c.Services)))
	m.endpointPending.Add(float64(len(c.Slices)))
	p.put(func(in *inbox) { in.changes = append(in.changes, c) })
}

func (p *Proxy) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz", promhttp.InstrumentHandlerCounter(p.opts.Metrics.healthz, p.health))
	mux.Handle("/livez", promhttp.InstrumentHandlerCounter(p.opts.Metrics.livez, p.health))
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

// Ready returns nil when the kernel holds what the source told at first, else why it does not.
func (p *Proxy) Ready() error {
	if p.health.Synced() {
		return nil
	}
	if err := p.health.Err(); err != nil {
		return fmt.Errorf("service proxy: %w", err)
	}
	return errNotSynced
}
