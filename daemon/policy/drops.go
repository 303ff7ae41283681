package policy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

const (
	// logEvery is how often one kind of drop is logged at most, and logKinds how many kinds are told apart; of others, the number is logged.
	logEvery = time.Minute
	logKinds = 4096

	// dropsKept is how many of the last drops people can ask for.
	dropsKept = 1_000

	// dropsAgain is the pause before drops are listened to again after that failed.
	dropsAgain = time.Second
)

// Packet is the head of a packet that was refused.
type Packet struct {
	Prefix   string // which of the table's chains refused it
	Protocol uint8
	Src, Dst netip.Addr
	Port     uint16 // of Dst; 0 when there is none or it cannot be read
}

// dropKind is what drops have in common that are logged together.
type dropKind struct {
	direction, protocol string
	pod, peer           netip.Addr
	port                uint16
}

// tally is what became of a kind since it was logged.
type tally struct {
	last       api.Drop
	until      time.Time // it is not logged again before
	suppressed int
}

// drops makes of refused packets what people read. What it keeps is bounded.
type drops struct {
	describe func(Packet) api.Drop
	metrics  *Metrics
	log      *slog.Logger
	now      func() time.Time

	mu    sync.Mutex
	kinds map[dropKind]*tally
	more  int        // drops that were not logged for want of room in kinds
	ring  []api.Drop // up to dropsKept
	next  int        // where the next one goes
}

func newDrops(describe func(Packet) api.Drop, metrics *Metrics, log *slog.Logger) *drops {
	return &drops{describe: describe, metrics: metrics, log: log, now: time.Now, kinds: map[dropKind]*tally{}}
}

// Run listens until ctx ends. Enforcement does not depend on it: when the kernel does not let anybody listen, that is logged, and tried again.
func (d *drops) Run(ctx context.Context, listen func(context.Context, func(Packet), func(int)) error) {
	if listen == nil {
		return
	}
	sweep := time.NewTicker(logEvery / 4)
	defer sweep.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		told := ""
		for {
			err := listen(ctx, d.add, func(n int) { d.metrics.lost.Add(float64(n)) })
			if ctx.Err() != nil {
				return
			}
			if err != nil && err.Error() != told {
				told = err.Error()
				d.log.Warn("packets that policies refuse cannot be logged; trying again", "err", err)
			}
			if !syncloop.Sleep(ctx, dropsAgain) {
				return
			}
		}
	}()
	for {
		select {
		case <-ended:
			return
		case <-sweep.C:
			d.sweep()
		}
	}
}

// add takes a packet.
func (d *drops) add(p Packet) {
	drop := d.describe(p)
	drop.Time = d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep(drop)
	kind := dropKind{direction: drop.Direction, pod: drop.PodAddress, peer: drop.PeerAddress, protocol: drop.Protocol, port: drop.Port}
	t := d.kinds[kind]
	switch {
	case t != nil && drop.Time.Before(t.until):
		t.last = drop
		t.suppressed++
		return
	case t == nil && len(d.kinds) >= logKinds:
		d.more++
		return
	case t == nil:
		t = &tally{}
		d.kinds[kind] = t
	}
	d.tell(drop, t.suppressed)
	*t = tally{until: drop.Time.Add(logEvery)}
}

// keep puts a drop into the ring.
func (d *drops) keep(drop api.Drop) {
	if len(d.ring) < dropsKept {
		d.ring = append(d.ring, drop)
		return
	}
	d.ring[d.next] = drop
	d.next = (d.next + 1) % dropsKept
}

// sweep tells of what was suppressed and whose time is over, and forgets kinds that are over.
func (d *drops) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for kind, t := range d.kinds {
		switch {
		case now.Before(t.until):
		case t.suppressed == 0:
			delete(d.kinds, kind)
		default:
			d.tell(t.last, t.suppressed-1)
			*t = tally{until: now.Add(logEvery)}
		}
	}
	if d.more > 0 {
		d.log.Info("policies refused more packets than can be told apart", "packets", d.more)
		d.more = 0
	}
}

func (d *drops) tell(drop api.Drop, suppressed int) {
	attrs := []any{"direction", drop.Direction, "pod", drop.Pod, "address", drop.PodAddress, "peer", drop.PeerAddress, "protocol", drop.Protocol}
	if drop.Peer != "" {
		attrs = append(attrs, "peerPod", drop.Peer)
	}
	if drop.Port != 0 {
		attrs = append(attrs, "port", drop.Port)
	}
	attrs = append(attrs, "policies", drop.Policies, "reason", drop.Reason)
	if suppressed > 0 {
		attrs = append(attrs, "suppressed", suppressed)
	}
	d.log.Info("packet refused by policy", attrs...)
}

// Last returns the last drops, the oldest first.
func (d *drops) Last() []api.Drop {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(slices.Clone(d.ring[d.next:]), d.ring[:d.next]...)
}

// directions are what the prefixes of log messages say.
var directions = map[string]string{gate.LogEgress: policy.Egress.String(), gate.LogIngress: policy.Ingress.String()}

// describe says what refused a packet, by what is known at the moment.
func (e *Enforcer) describe(p Packet) api.Drop {
	flow := policy.Flow{Src: p.Src.Unmap(), Dst: p.Dst.Unmap(), Protocol: store.Protocol(p.Protocol), Port: p.Port}
	drop := api.Drop{Direction: "unknown", PodAddress: flow.Src, PeerAddress: flow.Dst, Protocol: protocolName(flow.Protocol), Port: p.Port}
	direction := policy.Egress
	if directions[p.Prefix] != "" {
		drop.Direction = directions[p.Prefix]
	}
	if p.Prefix == gate.LogIngress {
		direction = policy.Ingress
	}
	e.state.Lock()
	defer e.state.Unlock()
	if p.Prefix == gate.LogIngress || p.Prefix == gate.LogUnknown && !e.isOurs(flow.Src) {
		drop.PodAddress, drop.PeerAddress = flow.Dst, flow.Src
	}
	if e.filter == nil {
		return drop
	}
	drop.Pod, drop.Peer = e.podName(drop.PodAddress), e.podName(drop.PeerAddress)
	if drop.Direction == "unknown" {
		drop.Reason = "the address is that of no pod whose policies are known"
		return drop
	}
	if decision, ok := e.filter.Explain(direction, flow); ok {
		drop.Policies, drop.Reason = decision.Policies, decision.Explain(flow)
	}
	return drop
}

// isOurs reports whether the address is one for this node's pods. e.state is held.
func (e *Enforcer) isOurs(a netip.Addr) bool {
	return slices.ContainsFunc(e.nodePods, func(p netip.Prefix) bool { return p.Contains(a) })
}

// protocolName is the name of a protocol for people.
func protocolName(p store.Protocol) string {
	switch {
	case policy.HasPorts(p):
		return p.String()
	case p == 1:
		return "ICMP"
	case p == 58:
		return "ICMPv6"
	}
	return fmt.Sprint(uint8(p))
}
