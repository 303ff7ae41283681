package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Conntrack is what a Proxy asks of connection tracking; package conntrack has the real functions.
type Conntrack struct {
	Flush func(context.Context, conntrack.Match) error
	Sweep func(ctx context.Context, flows conntrack.Flows, stale func(dst, endpoint netip.AddrPort) bool) (removed int, err error)
	Each  func(ctx context.Context, flows conntrack.Flows, reset func(), each func(conntrack.Flow)) error
}

// flushMost is how many matches are handed to the kernel one by one. It walks its whole table for each; above, one listing is cheaper.
const flushMost = 32

// flusher removes conntrack entries beside the syncs: a large table takes the kernel a while.
type flusher struct {
	conntrack Conntrack
	view      *view
	metrics   *Metrics
	log       *slog.Logger
	wake      chan struct{} // of capacity 1

	mu    sync.Mutex
	queue map[conntrack.Match]struct{}
	all   bool // every entry is to be looked at
}

func newFlusher(c Conntrack, metrics *Metrics, log *slog.Logger) *flusher {
	return &flusher{conntrack: c, view: newView(), metrics: metrics, log: log, wake: make(chan struct{}, 1), queue: map[conntrack.Match]struct{}{}}
}

// Add queues entries for removal; what is queued already is not queued twice.
func (f *flusher) Add(matches []conntrack.Match) {
	if len(matches) == 0 {
		return
	}
	f.mu.Lock()
	for _, m := range matches {
		f.queue[m] = struct{}{}
	}
	f.mu.Unlock()
	syncloop.Nudge(f.wake)
}

// Sweep has all entries looked at: what happened while nobody watched is not known.
func (f *flusher) Sweep() {
	f.mu.Lock()
	f.all = true
	f.mu.Unlock()
	syncloop.Nudge(f.wake)
}

func (f *flusher) take() (queue map[conntrack.Match]struct{}, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	queue, all = f.queue, f.all
	f.queue, f.all = map[conntrack.Match]struct{}{}, false
	return queue, all
}

// Run removes what is queued until ctx ends. An entry that cannot be removed is logged: it goes when its client pauses.
func (f *flusher) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		queue, all := f.take()
		if len(queue) > flushMost {
			f.sweep(ctx, tablesOf(queue), func(protocol uint8) func(dst, endpoint netip.AddrPort) bool {
				return func(dst, endpoint netip.AddrPort) bool {
					_, whole := queue[conntrack.Match{Protocol: protocol, Dst: dst}]
					m := conntrack.Match{Protocol: protocol, Dst: dst, Endpoint: endpoint}
					_, one := queue[m]
					return whole || one && !f.view.serves(m)
				}
			})
		} else {
			f.flush(ctx, queue)
		}
		if all {
			f.sweep(ctx, f.view.tables(), f.view.stale)
		}
	}
}

// flush has the kernel look for each match.
func (f *flusher) flush(ctx context.Context, queue map[conntrack.Match]struct{}) {
	for m := range queue {
		if ctx.Err() != nil {
			return
		}
		if f.view.serves(m) { // it came back
			continue
		}
		f.note(ctx, f.conntrack.Flush(ctx, m), 1)
	}
}

// sweep looks at all entries of the tables.
func (f *flusher) sweep(ctx context.Context, tables []conntrack.Flows, stale func(protocol uint8) func(dst, endpoint netip.AddrPort) bool) {
	for _, t := range tables {
		n, err := f.conntrack.Sweep(ctx, t, stale(t.Protocol))
		f.note(ctx, err, n)
	}
}

func (f *flusher) note(ctx context.Context, err error, n int) {
	f.metrics.flushed.Add(float64(n))
	if err != nil && ctx.Err() == nil {
		f.metrics.flushFailures.Inc()
		f.log.Warn("a client may go on sending to an endpoint that is gone, until it pauses", "err", err)
	}
}

// tablesOf returns the parts of the conntrack table that the matches are in.
func tablesOf(queue map[conntrack.Match]struct{}) []conntrack.Flows {
	var out []conntrack.Flows
	seen := map[conntrack.Flows]bool{}
	for m := range queue {
		if t := (conntrack.Flows{Protocol: m.Protocol, IPv6: m.Dst.Addr().Is6()}); !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	return out
}

// view is who answers at the frontends whose entries can be stale. It may be used concurrently.
type view struct {
	mu        sync.Mutex
	frontends map[service.FrontendKey]*service.Frontend
	count     map[conntrack.Flows]int // of frontends
}

func newView() *view {
	return &view{frontends: map[service.FrontendKey]*service.Frontend{}, count: map[conntrack.Flows]int{}}
}

// Apply takes changes. A frontend can move from one Service to another, so all that go are taken out before any is put in.
func (v *view) Apply(changes []service.Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range changes {
		for _, f := range flushable(c.Old) {
			if _, ok := v.frontends[f.FrontendKey]; ok {
				delete(v.frontends, f.FrontendKey)
				v.count[tableOf(f.FrontendKey)]--
			}
		}
	}
	for _, c := range changes {
		for _, f := range flushable(c.New) {
			v.frontends[f.FrontendKey] = f
			v.count[tableOf(f.FrontendKey)]++
		}
	}
}

func tableOf(k service.FrontendKey) conntrack.Flows {
	return conntrack.Flows{Protocol: uint8(k.Protocol), IPv6: k.Addr.Is6()}
}

// tables returns the parts of the conntrack table that entries of the frontends are in.
func (v *view) tables() []conntrack.Flows {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []conntrack.Flows
	for t, n := range v.count {
		if n > 0 {
			out = append(out, t)
		}
	}
	return out
}

func (v *view) find(protocol uint8, dst netip.AddrPort) *service.Frontend {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frontends[service.FrontendKey{Addr: dst.Addr(), Protocol: store.Protocol(protocol), Port: dst.Port()}]
}

// serves reports whether the endpoint of a match may have connections of the frontend.
func (v *view) serves(m conntrack.Match) bool {
	f := v.find(m.Protocol, m.Dst)
	return f != nil && m.Endpoint.IsValid() && mayAnswer(f, m.Endpoint)
}

// stale returns what says which entries of a protocol are: those to one of the frontends that is answered by none of its endpoints. Where there
// are no endpoints, an entry that is not translated may be somebody's on the node.
func (v *view) stale(protocol uint8) func(dst, endpoint netip.AddrPort) bool {
	return func(dst, endpoint netip.AddrPort) bool {
		f := v.find(protocol, dst)
		return f != nil && !mayAnswer(f, endpoint) && (endpoint != dst || len(f.Endpoints) > 0)
	}
}
