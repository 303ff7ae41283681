package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

const (
	// pieceSize is how many elements are written in one transaction at most. The kernel keeps some 8 KiB for each until the transaction ends, and
	// holds a lock that other programs want; larger pieces are no faster.
	pieceSize = 1_000

	// affinitySize is how many clients are remembered in each family.
	affinitySize = 1 << 18

	// manyEndpoints is how many endpoints make a comparison with the kernel leave garbage worth returning: some tens of MiB.
	manyEndpoints = 10_000

	// driftSpacing bounds what it costs when another program keeps changing our tables.
	driftSpacing = 200 * time.Millisecond
)

var errNotSynced = errors.New("service proxy: Services have not been read yet")

// syncOnce syncs with what has come, and returns the pause that is to follow.
func (p *Proxy) syncOnce(ctx context.Context) (pause time.Duration, err error) {
	began := time.Now()
	in := p.take()
	err = p.sync(ctx, in)
	pause = time.Until(began.Add(p.opts.Config.MinSyncPeriod))
	if in.drift {
		pause = max(pause, driftSpacing, p.compared)
	}
	return pause, err
}

// run syncs until ctx ends.
func (p *Proxy) run(ctx context.Context) {
	p.loop.Run(ctx, p.syncOnce, p.period, func() { p.put(func(in *inbox) { in.compare = true }) })
}

// period returns the time until the next full comparison: nodes that were started together are not to work together.
func (p *Proxy) period() time.Duration {
	return p.opts.Config.SyncPeriod + rand.N(p.opts.Config.SyncPeriod/8+1)
}

// sync takes in what came and makes the kernel hold what follows. After an error, what was taken in is not lost: the next one compares
// everything.
func (p *Proxy) sync(ctx context.Context, in inbox) error {
	p.state.Lock()
	defer p.state.Unlock()
	began := time.Now()
	for _, c := range in.changes {
		p.tracker.Apply(c)
	}
	p.unwritten.add(in)
	if in.host != nil && (p.host == nil || !p.host.equal(in.host)) {
		p.host = in.host
		p.tracker.SetNode(service.Node{Name: p.opts.NodeName, Zone: p.host.Zone, Addrs: p.host.Addrs, NodePortAddrs: p.host.NodePortAddrs,
			MasqueradeAll: p.opts.Config.MasqueradeAll, Scheduler: p.opts.Config.Scheduler})
	}
	if p.host == nil || !p.tracker.Complete() {
		return nil
	}
	changes := p.tracker.Next()
	p.noteSteered(changes)
	converted := make([]dnat.Change, 0, len(changes))
	for _, c := range changes {
		converted = append(converted, dnat.Change{Name: c.Name(), Service: c.New})
	}
	compared, err := p.program(ctx, p.reweigh(in.weights, converted), in.drift || in.compare)
	if compared || len(changes) > 0 {
		p.programs++
	}
	p.health.Synced(began, err)
	ended := time.Now()
	if compared || len(changes) > 0 || err != nil {
		p.opts.Metrics.synced(began, ended, compared, err)
	}
	if compared {
		p.compared = ended.Sub(began)
	}
	p.follow(changes)
	if err == nil {
		p.written(ended, compared)
	}
	return err
}

// add adds what was taken in.
func (in *inbox) add(o inbox) {
	in.services += o.services
	in.slices += o.slices
	if in.since.IsZero() {
		in.since = o.since
	}
}

// written does what has to wait until the kernel holds all that was taken in: before, connections would still go where they went.
func (p *Proxy) written(now time.Time, compared bool) {
	m := p.opts.Metrics
	m.servicePending.Sub(float64(p.unwritten.services))
	m.endpointPending.Sub(float64(p.unwritten.slices))
	if since := p.unwritten.since; !since.IsZero() {
		m.programming.Observe(now.Sub(since).Seconds())
	}
	p.unwritten = inbox{}
	p.started = true
	p.flusher.Add(p.stale)
	p.stale = nil
	if compared {
		p.flusher.Sweep()
		if p.endpoints >= manyEndpoints {
			go debug.FreeOSMemory() // what listings and the source's first answer took would stay with the process for minutes
		}
	}
	if !p.announced {
		p.announced = true
		if p.opts.Announce != nil {
			p.opts.Announce(p.routes.List())
		}
	}
}

// program writes the changes, or with compare all that differs from the kernel. It reports whether it compared.
func (p *Proxy) program(ctx context.Context, changes []dnat.Change, compare bool) (compared bool, err error) {
	p.ensureFamilies()
	for i := range changes {
		changes[i].Service = p.weigh(changes[i].Service)
	}
	var errs []error
	for _, f := range p.families {
		f.compare = f.compare || compare
		compared = compared || f.compare
		if err := p.programFamily(ctx, f, changes); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 { // whoever changed one table may have changed the other
		for _, f := range p.families {
			f.compare = true
		}
	}
	return compared, errors.Join(errs...)
}

// ensureFamilies makes the tables, anew when what they depend on changed.
func (p *Proxy) ensureFamilies() {
	networks := p.tracker.Networks()
	for i, of := range []kernel.TableFamily{kernel.FamilyIPv4, kernel.FamilyIPv6} {
		c := dnat.Config{
			Family:            of,
			PodNetworks:       p.podNetworks(),
			NodePodNetworks:   p.host.NodePodNetworks,
			ServiceNetworks:   networks,
			MasqueradeBit:     p.opts.Config.MasqueradeBit,
			MasqueradeAll:     p.opts.Config.MasqueradeAll,
			DropInvalid:       !p.opts.Config.Conntrack.BeLiberal,
			AffinitySize:      affinitySize,
			MasqueradeBridged: p.host.Bridged,
		}
		switch {
		case len(p.families) <= i:
			p.families = append(p.families, &family{config: c, table: dnat.New(c), compare: true, fresh: true})
		case !p.families[i].config.Equal(c):
			*p.families[i] = family{config: c, table: dnat.New(c), compare: true, fresh: true}
		}
	}
}

func (p *Proxy) podNetworks() []netip.Prefix {
	if given := p.opts.Config.ClusterNetworks; given != nil {
		return given
	}
	return p.host.PodNetworks
}

// follow does what comes of changes beside the kernel's tables: stale flows, health checks, announcements.
func (p *Proxy) follow(changes []service.Change) {
	checks := map[store.ObjectName]*service.HealthCheck{}
	p.flusher.view.Apply(changes)
	for _, c := range changes {
		if p.started { // what went before is not known, and is swept
			p.stale = append(p.stale, staleFlows(c.Old, c.New)...)
		}
		var was, is *service.HealthCheck
		if c.Old != nil {
			was = c.Old.HealthCheck
		}
		if c.New != nil {
			is = c.New.HealthCheck
			p.warn(c)
		}
		if was != nil || is != nil {
			checks[c.Name()] = is
		}
	}
	if len(checks) > 0 {
		p.checks.Change(checks)
	}
	if p.routes.Apply(changes) {
		p.announced = false
	}
	p.count(changes)
}

// warn logs what is wrong with a Service when that is news.
func (p *Proxy) warn(c service.Change) {
	for _, w := range c.New.Warnings {
		if c.Old == nil || !slices.Contains(c.Old.Warnings, w) {
			p.opts.Log.Warn("Service is not what its author may think", "service", c.New.Name, "warning", w)
		}
	}
}

// count keeps the sizes up to date.
func (p *Proxy) count(changes []service.Change) {
	m := p.opts.Metrics
	add := func(s *service.Service, by int) {
		if s == nil {
			return
		}
		endpoints := 0
		for _, f := range s.Frontends {
			endpoints += len(f.Endpoints)
		}
		p.endpoints += by * endpoints
		m.services.Add(float64(by))
		m.frontends.Add(float64(by * len(s.Frontends)))
	}
	for _, c := range changes {
		add(c.Old, -1)
		add(c.New, 1)
	}
	m.endpoints.Set(float64(p.endpoints))
}
