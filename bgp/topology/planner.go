package topology

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Options are what a Planner works with. All but Passwords, PublicIP and PublicIPv6 are needed.
type Options struct {
	Network   store.Network
	Config    *config.Config
	Record    store.NodeRecord // of this node; it bears its name
	Passwords config.Passwords

	// PublicIP and PublicIPv6 are published instead of the uplink's own address, unless they are zero.
	PublicIP, PublicIPv6 netip.Addr

	// Published is what the daemon's last run published; the zero LeaseData for nothing. A planner that takes over from another one goes on from
	// what that one published.
	Published bgp.LeaseData

	Now func() time.Time
}

// Planner makes the plans of one node; it is a bgp.Planner. It remembers what the last plan published. Its methods may be called
// concurrently.
type Planner struct {
	opts    Options
	record  config.NodeSettings
	wrong   *store.Reject // what is wrong with the node's record, so that record is an older one's; nil: nothing
	node    config.Node
	started time.Time

	mu      sync.Mutex
	publish bgp.LeaseData // by the last plan; the zero LeaseData before the first
	decoded map[*store.Lease]decoded
}

// decoded is what a lease says. Leases never change, and reading them would be most of a plan's work.
type decoded struct {
	data bgp.LeaseData
	err  error
}

// New returns a Planner. When the configuration changed, before is the planner that this one takes over from, and else nil: what was
// published is the node's memory of what other nodes rely on. When what the node's record says of BGP cannot be read, the last record that
// could be counts in that respect, or none; each plan rejects it.
func New(opts Options, before *Planner) *Planner {
	p := &Planner{opts: opts, started: opts.Now(), publish: opts.Published, decoded: map[*store.Lease]decoded{}}
	if before != nil {
		before.mu.Lock()
		p.started, p.publish = before.started, before.publish
		before.mu.Unlock()
	}
	record, err := config.ParseNode(opts.Record.BGP)
	if err != nil {
		p.wrong = &store.Reject{Key: "record of node " + opts.Record.Name, Err: err}
		if before != nil {
			record = before.record
		}
	}
	p.record, p.node = record, opts.Config.Node(opts.Record.Name, opts.Record.Labels, record)
	return p
}

// Attributes implements bgp.Planner. The error says what the uplink lacks.
func (p *Planner) Attributes(uplink kernel.Uplink) (store.Attributes, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	attrs := store.Attributes{NodeName: p.node.Name, BackendType: bgp.BackendType}
	var err error
	if p.opts.Network.EnableIPv4 {
		if attrs.PublicIP, err = public(uplink, p.opts.PublicIP, false); err != nil {
			return store.Attributes{}, err
		}
	}
	if p.opts.Network.EnableIPv6 {
		if attrs.PublicIPv6, err = public(uplink, p.opts.PublicIPv6, true); err != nil {
			return store.Attributes{}, err
		}
	}
	// What does not follow from other nodes follows from the uplink and the configuration as they are now.
	now := look(p.input(bgp.PlanInput{Uplink: uplink, Self: &store.Lease{PublicIP: attrs.PublicIP, PublicIPv6: attrs.PublicIPv6}})).publish()
	if p.publish.Node != "" {
		now.Labels, now.Reflector, now.Hears = p.publish.Labels, p.publish.Reflector, p.publish.Hears
	}
	raw, err := now.Encode()
	if err != nil {
		return store.Attributes{}, err
	}
	if p.opts.Network.EnableIPv4 {
		attrs.BackendData = raw
	} else {
		attrs.BackendV6Data = raw
	}
	return attrs, nil
}

func public(uplink kernel.Uplink, given netip.Addr, ipv6 bool) (netip.Addr, error) {
	if given.IsValid() {
		return given, nil
	}
	if addr := uplink.Addr(ipv6); addr.IsValid() {
		return addr, nil
	}
	family := "IPv4"
	if ipv6 {
		family = "IPv6"
	}
	return netip.Addr{}, fmt.Errorf("uplink %s has no %s address, but the network has %s enabled", uplink.Name, family, family)
}

// Plan implements bgp.Planner.
func (p *Planner) Plan(in bgp.PlanInput) bgp.Planned {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.decoded) > 2*len(in.Leases) {
		clear(p.decoded) // most are of leases that are gone
	}
	plan := Make(p.input(in))
	planned := bgp.Planned{Instance: plan.Instance, Rejects: plan.Rejects, Again: plan.Again}
	if p.wrong != nil {
		planned.Rejects = append(planned.Rejects, *p.wrong)
	}
	if !same(plan.Publish, p.publish) {
		planned.Publish = &plan.Publish
	}
	p.publish = plan.Publish
	return planned
}

func (p *Planner) input(in bgp.PlanInput) Input {
	return Input{
		PlanInput: in, Network: p.opts.Network, Config: p.opts.Config, Node: p.node, Passwords: p.opts.Passwords,
		Published: p.publish, Started: p.started, Now: p.opts.Now(),
		decode: p.decode,
	}
}

func (p *Planner) decode(l *store.Lease) (bgp.LeaseData, error) {
	d, ok := p.decoded[l]
	if !ok {
		d.data, d.err = bgp.DecodeLease(l)
		p.decoded[l] = d
	}
	return d.data, d.err
}

// same reports whether a and b are published alike. A plan that cannot be published is told by Attributes.
func same(a, b bgp.LeaseData) bool {
	x, errX := a.Encode()
	y, errY := b.Encode()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

var _ bgp.Planner = (*Planner)(nil)
