package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// staleFlows returns the conntrack entries that a change of a Service leaves behind. A client that goes on sending datagrams from one port keeps
// its entry alive, and with it the way to an endpoint that is gone, or past a frontend that is new. TCP needs none of it: an
// endpoint that is gone ends its connections itself, or its node's death does.
func staleFlows(old, now *service.Service) []conntrack.Match {
	var out []conntrack.Match
	frontends := func(s *service.Service) map[service.FrontendKey]*service.Frontend {
		m := map[service.FrontendKey]*service.Frontend{}
		if s != nil {
			for i, f := range s.Frontends {
				if f.Protocol == store.UDP {
					m[f.FrontendKey] = &s.Frontends[i]
				}
			}
		}
		return m
	}
	before, after := frontends(old), frontends(now)
	for key, was := range before {
		match := conntrack.Match{Protocol: uint8(key.Protocol), Dst: netip.AddrPortFrom(key.Addr, key.Port)}
		is := after[key]
		if is == nil {
			out = append(out, match) // whoever answered
			continue
		}
		have := endpointsOf(is)
		for e := range endpointsOf(was) {
			if !have[e] {
				match.Endpoint = e
				out = append(out, match)
			}
		}
	}
	for key, is := range after {
		if was := before[key]; len(endpointsOf(is)) > 0 && (was == nil || len(endpointsOf(was)) == 0) {
			// Datagrams that came earlier were not translated: they were answered, if at all, by the address itself.
			dst := netip.AddrPortFrom(key.Addr, key.Port)
			out = append(out, conntrack.Match{Protocol: uint8(key.Protocol), Dst: dst, Endpoint: dst})
		}
	}
	return out
}

// endpointsOf returns all that a frontend's connections may go to.
func endpointsOf(f *service.Frontend) map[netip.AddrPort]bool {
	m := make(map[netip.AddrPort]bool, len(f.Endpoints))
	for _, e := range f.Endpoints {
		m[e.Addr] = true
	}
	if f.Inside != nil {
		for _, e := range f.Inside.Endpoints {
			m[e.Addr] = true
		}
	}
	return m
}

// flusher removes conntrack entries beside the syncs: a large table takes the kernel a while.
type flusher struct {
	flush   func(context.Context, conntrack.Match) error
	metrics *Metrics
	log     *slog.Logger
	wake    chan struct{}
	mu      sync.Mutex
	queue   []conntrack.Match
	inside  map[conntrack.Match]bool // what is in queue
}

func newFlusher(flush func(context.Context, conntrack.Match) error, metrics *Metrics, log *slog.Logger) *flusher {
	return &flusher{flush: flush, metrics: metrics, log: log, wake: make(chan struct{}, 1), inside: map[conntrack.Match]bool{}}
}

// Add queues entries for removal; what is queued already is not queued twice.
func (f *flusher) Add(matches []conntrack.Match) {
	if len(matches) == 0 {
		return
	}
	f.mu.Lock()
	for _, m := range matches {
		if !f.inside[m] {
			f.inside[m] = true
			f.queue = append(f.queue, m)
		}
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *flusher) take() []conntrack.Match {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.queue
	f.queue = nil
	clear(f.inside)
	return slices.Clip(all)
}

// Run removes what is queued until ctx ends. An entry that cannot be removed is logged: it goes when its client pauses.
func (f *flusher) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		for _, m := range f.take() {
			err := f.flush(ctx, m)
			if err == nil {
				f.metrics.flushed.Inc()
			} else if ctx.Err() == nil {
				f.metrics.flushFailures.Inc()
				f.log.Warn("a UDP client may go on sending to an endpoint that is gone, until it pauses", "err", err)
			}
		}
	}
}
