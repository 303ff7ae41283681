package status

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
)

// Options are what a Collector asks. All of it is needed; those that return a pointer or api.BGP return nil for what the node does not have.
type Options struct {
	Node, Version, Backend string
	DatastoreKind          string // etcd or kubernetes

	Ready     func() error // what /readyz says
	Reached   func() int   // nodes that there is a way to, of a node that routes with BGP; nil: as Synced says
	Datastore func() error // its health
	BGP       func() api.BGP
	Services  func() *syncloop.State
	Policies  func() *syncloop.State
	Addresses func() ([]api.RangeUse, error)
	Pods      func() (int, error)
	Conntrack func() (api.ConntrackUse, error)
}

// Collector knows how a node is. It implements node.Observer. Its methods may be called concurrently. Make it with New.
type Collector struct {
	opts    Options
	started time.Time

	mu        sync.Mutex
	peers     api.PeerStatus
	subnets   []netip.Prefix
	podMTU    int
	uplink    string
	uplinkMTU int
}

// New makes a Collector for a node that starts at this moment.
func New(opts Options) *Collector { return &Collector{opts: opts, started: time.Now()} }

// Synced takes in how a sync of the node went.
func (c *Collector) Synced(r node.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.peers
	p.Peers, p.Rejected, p.Desired, p.Programmed, p.Error = r.Peers, r.Rejected, 0, 0, ""
	for _, k := range r.Result.Kinds {
		p.Desired += k.Desired
		p.Programmed += k.Programmed
		if r.Drift {
			p.Repaired += k.Changes
		}
	}
	if r.Err != nil {
		p.Error = r.Err.Error()
	} else {
		p.LastSync = r.End
	}
}

// Announced takes in what container runtimes are told of the node.
func (c *Collector) Announced(a node.Announcement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.podMTU, c.subnets = a.MTU, nil
	for _, p := range []netip.Prefix{a.Subnets.IPv4, a.Subnets.IPv6} {
		if p.IsValid() {
			c.subnets = append(c.subnets, p)
		}
	}
}

// SetUplink takes in which link leads to the other nodes.
func (c *Collector) SetUplink(u kernel.Uplink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uplink, c.uplinkMTU = u.Name, u.MTU
}

// Status returns how the node is now.
func (c *Collector) Status(context.Context) api.NodeStatus {
	c.mu.Lock()
	s := api.NodeStatus{
		Node: c.opts.Node, Version: c.opts.Version, Backend: c.opts.Backend, Started: c.started,
		Subnets: append([]netip.Prefix{}, c.subnets...), Uplink: c.uplink, UplinkMTU: c.uplinkMTU, PodMTU: c.podMTU, Peers: c.peers,
	}
	c.mu.Unlock()
	s.NotReady = reasons(c.opts.Ready())
	s.Datastore.Kind = c.opts.DatastoreKind
	if err := c.opts.Datastore(); err != nil {
		s.Datastore.Error = err.Error()
	}
	s.BGP = routing(c.opts.BGP())
	if s.BGP != nil && c.opts.Reached != nil {
		s.Peers.Peers = c.opts.Reached() // a sync counts networks, of which other routers have some, too
	}
	s.Services, s.Policies = loop(c.opts.Services()), loop(c.opts.Policies())
	note := func(what string, err error) {
		if err != nil {
			s.Unknown = append(s.Unknown, fmt.Sprintf("%s: %v", what, err))
		}
	}
	var err error
	s.Addresses, err = c.opts.Addresses()
	note("use of addresses", err)
	s.Pods, err = c.opts.Pods()
	note("number of pods", err)
	s.Conntrack, err = c.opts.Conntrack()
	note("tracked connections", err)
	return s
}

// reasons takes apart what errors.Join has joined.
func reasons(err error) []string {
	if err == nil {
		return nil
	}
	var all, texts []string
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // not errors.As, which looks into errors that have a text of their own
		for _, e := range joined.Unwrap() {
			all, texts = append(all, reasons(e)...), append(texts, e.Error())
		}
	}
	if strings.Join(texts, "\n") != err.Error() {
		return []string{err.Error()}
	}
	return all
}

func routing(b api.BGP) *api.BGPStatus {
	if b == nil {
		return nil
	}
	s := &api.BGPStatus{LeftOut: len(b.LeftOut())}
	for _, session := range b.Sessions() {
		s.Sessions++
		if session.Established() {
			s.Established++
		}
	}
	return s
}

func loop(state *syncloop.State) *api.LoopStatus {
	if state == nil {
		return nil
	}
	s := &api.LoopStatus{LastSync: state.Synced, WaitingSeconds: state.Waiting.Seconds()}
	if state.Err != nil {
		s.Error = state.Err.Error()
	}
	return s
}
