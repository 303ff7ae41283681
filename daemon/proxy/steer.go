package proxy

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/proxy/steer"
	"github.com/twill-cni/twill/store"
)

// steerEvery is the interval at which connections are counted for schedulers that go by them.
const steerEvery = time.Second

// burstFading is what part of a burst is still expected an interval later: half of it after half a minute.
const burstFading = 0.98

// countApart is for how many frontends the kernel is asked one by one, which has it walk its table for each but copies nothing else. Above, one
// listing of a protocol serves all.
const countApart = 8

// weights are what endpoints of frontends are to weigh, in the order of Frontend.Endpoints at the time; an endpoint that is new has none.
type weights map[service.FrontendKey]map[netip.AddrPort]uint32

// steering counts connections and makes weights of the counts. It remembers which connections it has seen, to know how many are new: 4 bytes
// and a map's overhead for each connection of the frontends in question.
type steering struct {
	each func(ctx context.Context, flows conntrack.Flows, reset func(), each func(conntrack.Flow)) error
	last map[service.FrontendKey]*tally
}

// tally is what was counted at a frontend.
type tally struct {
	ids     map[uint32]struct{}
	open    map[netip.AddrPort]int
	all     int     // that are open
	fresh   int     // that were not there the last time, ...
	lasting int     // and are open
	rate    float64 // of arrivals in an interval, smoothed
	burst   float64 // the most that came in an interval and lasted, fading
}

func newTally() *tally { return &tally{ids: map[uint32]struct{}{}, open: map[netip.AddrPort]int{}} }

func (t *tally) add(f conntrack.Flow, before *tally) {
	known := false
	if before != nil {
		_, known = before.ids[f.ID]
	}
	t.ids[f.ID] = struct{}{}
	if !known {
		t.fresh++
	}
	if f.Open() {
		t.open[f.Endpoint]++
		t.all++
		if !known {
			t.lasting++
		}
	}
}

// load says what the next interval will be like, if it is like the last one.
func (t *tally) load(before *tally) steer.Load {
	l := steer.Load{Staying: 1, Lasting: 1}
	if before == nil { // nothing is known of when they came, nor of how long they last
		l.Burst = float64(t.all)
		return l
	}
	t.burst = max(float64(t.lasting), before.burst*burstFading)
	l.Burst = t.burst
	t.rate = float64(t.fresh)
	if before.rate > 0 {
		t.rate = (t.rate + before.rate) / 2
	}
	l.Arrivals = t.rate
	if t.fresh > 0 {
		l.Lasting = float64(t.lasting) / float64(t.fresh)
	}
	if before.all > 0 {
		l.Staying = min(1, float64(t.all-t.lasting)/float64(before.all))
	}
	return l
}

// count counts the connections of frontends, and returns weights.
func (s *steering) count(ctx context.Context, frontends []service.Frontend) (weights, error) {
	now := make(map[service.FrontendKey]*tally, len(frontends))
	asks := map[conntrack.Flows]bool{}
	for _, f := range frontends {
		now[f.FrontendKey] = newTally()
		of := tableOf(f.FrontendKey)
		if len(frontends) <= countApart {
			of.Dst = netip.AddrPortFrom(f.Addr, f.Port)
		}
		asks[of] = true
	}
	for of := range asks {
		key := func(dst netip.AddrPort) service.FrontendKey {
			return service.FrontendKey{Addr: dst.Addr(), Protocol: store.Protocol(of.Protocol), Port: dst.Port()}
		}
		err := s.each(ctx, of, func() {
			for k := range now {
				if tableOf(k) == (conntrack.Flows{Protocol: of.Protocol, IPv6: of.IPv6}) && (!of.Dst.IsValid() || k == key(of.Dst)) {
					now[k] = newTally()
				}
			}
		}, func(f conntrack.Flow) {
			k := key(f.Dst)
			if t := now[k]; t != nil {
				t.add(f, s.last[k])
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := weights{}
	for _, f := range frontends {
		t := now[f.FrontendKey]
		l := t.load(s.last[f.FrontendKey])
		endpoints := make([]steer.Endpoint, len(f.Endpoints))
		for i, e := range f.Endpoints {
			endpoints[i] = steer.Endpoint{Weight: e.Weight, Open: t.open[e.Addr]}
		}
		of := make(map[netip.AddrPort]uint32, len(endpoints))
		for i, w := range steer.Weights(f.Scheduler, endpoints, l) {
			of[f.Endpoints[i].Addr] = w
		}
		out[f.FrontendKey] = of
	}
	s.last = now
	return out, nil
}

// steer counts and weighs, as long as there are Services that ask for it, until ctx ends.
func (p *Proxy) steer(ctx context.Context) error {
	s := &steering{each: p.opts.Conntrack.Each}
	tick := time.NewTicker(steerEvery)
	defer tick.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		frontends := p.steeredFrontends()
		if len(frontends) == 0 {
			s.last = nil
			continue
		}
		w, err := s.count(ctx, frontends)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failed = ""
			p.put(func(in *inbox) { in.weights = w })
		case err.Error() != failed:
			failed = err.Error()
			p.opts.Log.Warn("connections cannot be counted: lc, sed and nq go by the counts before", "err", err)
		}
	}
}

// steeredFrontends returns the frontends that have a choice to make by connections.
func (p *Proxy) steeredFrontends() []service.Frontend {
	p.state.Lock()
	defer p.state.Unlock()
	var out []service.Frontend
	for _, s := range p.steered {
		for _, f := range s.Frontends {
			if steer.Steers(f.Scheduler) && len(f.Endpoints) > 1 {
				out = append(out, f)
			}
		}
	}
	return out
}

// noteSteered keeps the Services that are to be steered. p.state is held.
func (p *Proxy) noteSteered(changes []service.Change) {
	for _, c := range changes {
		if c.New != nil && slices.ContainsFunc(c.New.Frontends, func(f service.Frontend) bool { return steer.Steers(f.Scheduler) }) {
			p.steered[c.Name()] = c.New
		} else {
			delete(p.steered, c.Name())
		}
	}
}

// reweigh returns the changes that new weights make, beside those of changes.
func (p *Proxy) reweigh(now weights, changes []dnat.Change) []dnat.Change {
	if now == nil {
		return changes
	}
	before := p.weights
	p.weights = now
	told := map[store.ObjectName]bool{}
	for _, c := range changes {
		told[c.Name] = true
	}
	for name, s := range p.steered {
		differs := slices.ContainsFunc(s.Frontends, func(f service.Frontend) bool { return !maps.Equal(before[f.FrontendKey], now[f.FrontendKey]) })
		if differs && !told[name] {
			changes = append(changes, dnat.Change{Name: name, Service: s})
		}
	}
	return changes
}

// weigh returns a Service whose endpoints weigh what was found.
func (p *Proxy) weigh(s *service.Service) *service.Service {
	if s == nil || p.steered[s.Name] == nil {
		return s
	}
	weighed := *s
	weighed.Frontends = slices.Clone(s.Frontends)
	for i := range weighed.Frontends {
		f := &weighed.Frontends[i]
		of := p.weights[f.FrontendKey]
		if of == nil {
			continue
		}
		f.Endpoints = slices.Clone(f.Endpoints)
		for j := range f.Endpoints {
			e := &f.Endpoints[j]
			if e.Weight = of[e.Addr]; e.Weight == 0 { // it is new: an even share, until it has been counted
				e.Weight = service.MaxWeight / uint32(len(f.Endpoints))
			}
			e.Weight = max(1, e.Weight)
		}
	}
	return &weighed
}
