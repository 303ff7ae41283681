package service

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Tracker holds all Services and their EndpointSlices, and tells whose meaning on the node changes. It ends in the same state whatever the
// order of the changes that it was told, one by one or together, once or twice; an EndpointSlice may come before its Service. A change
// costs what the Services concerned cost, however many others there are; a change of the node concerns all.
//
// A Tracker is not safe for concurrent use.
type Tracker struct {
	resolver *resolver
	zone     *string // as the store last told
	networks []netip.Prefix

	services map[store.ObjectName]*tracked
	slices   map[store.ObjectName]*slice
	claims   *Claims

	complete bool // a reset came
	all      bool // everything is to be resolved anew
	dirty    map[store.ObjectName]struct{}
}

// A tracked Service is there as long as it or one of its slices is.
type tracked struct {
	service  *store.Service // nil: only slices came as yet
	slices   []*slice       // in no order
	resolved *Service
}

// NewTracker returns a Tracker for the node, without any Service.
func NewTracker(node Node) *Tracker {
	return &Tracker{
		resolver: newResolver(&node),
		services: map[store.ObjectName]*tracked{},
		slices:   map[store.ObjectName]*slice{},
		claims:   NewClaims(),
		dirty:    map[store.ObjectName]struct{}{},
	}
}

// SetNode says what the node is like now. A zone that the store told goes before the node's.
func (t *Tracker) SetNode(node Node) {
	if t.zone != nil {
		node.Zone = *t.zone
	}
	if node.equal(t.resolver.Node) {
		return
	}
	t.resolver = newResolver(&node)
	t.all = true
}

func (n *Node) equal(o *Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && n.MasqueradeAll == o.MasqueradeAll && n.Scheduler == o.Scheduler &&
		n.ProxyName == o.ProxyName && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.NodePortAddrs, o.NodePortAddrs)
}

// Apply takes what the store tells.
func (t *Tracker) Apply(c store.ServiceChanges) {
	if c.Reset {
		t.complete, t.all = true, true
		t.forget(c)
	}
	for name, s := range c.Services {
		t.setService(name, s)
	}
	for name, s := range c.Slices {
		t.setSlice(name, s)
	}
	if c.Networks != nil {
		t.networks = c.Networks
	}
	if c.Zone != nil {
		t.zone = c.Zone
		t.SetNode(*t.resolver.Node)
	}
}

// forget removes what a reset does not name.
func (t *Tracker) forget(c store.ServiceChanges) {
	if len(t.services) == 0 { // the first one: grow once
		t.services = make(map[store.ObjectName]*tracked, len(c.Services))
		t.slices = make(map[store.ObjectName]*slice, len(c.Slices))
		return
	}
	for name := range t.slices {
		if c.Slices[name] == nil {
			t.setSlice(name, nil)
		}
	}
	for name, s := range t.services {
		if s.service != nil && c.Services[name] == nil {
			t.setService(name, nil)
		}
	}
}

func (t *Tracker) setService(name store.ObjectName, s *store.Service) {
	if s != nil {
		t.touch(name).service = s
	} else if there := t.services[name]; there != nil {
		t.touch(name).service = nil
	}
}

func (t *Tracker) setSlice(name store.ObjectName, s *store.EndpointSlice) {
	if old := t.slices[name]; old != nil {
		of := t.touch(old.service)
		of.slices = slices.DeleteFunc(of.slices, func(o *slice) bool { return o == old })
		delete(t.slices, name)
	}
	if s != nil {
		now := compact(s)
		of := t.touch(now.service)
		of.slices = append(of.slices, now)
		t.slices[name] = now
	}
}

// touch returns the named Service, which is to be resolved anew.
func (t *Tracker) touch(name store.ObjectName) *tracked {
	s := t.services[name]
	if s == nil {
		s = &tracked{}
		t.services[name] = s
	}
	if !t.all {
		t.dirty[name] = struct{}{}
	}
	return s
}

// Next returns the Services whose meaning differs from what it was at the last call, sorted by name, after Claims have been settled.
// Before the first reset there are none: what the node has from an earlier life is not to be judged by half of what there is.
func (t *Tracker) Next() []Change {
	if !t.complete {
		return nil
	}
	var changes []Change
	if t.all {
		for name := range t.services {
			changes = t.resolve(name, changes)
		}
	} else {
		for name := range t.dirty {
			changes = t.resolve(name, changes)
		}
	}
	t.all = false
	t.dirty = map[store.ObjectName]struct{}{}
	return t.claims.Apply(changes)
}

// resolve resolves one Service and appends a change if there is one.
func (t *Tracker) resolve(name store.ObjectName, changes []Change) []Change {
	s := t.services[name]
	if s == nil {
		return changes
	}
	now := t.resolver.resolve(s.service, s.slices)
	if s.service == nil && len(s.slices) == 0 {
		delete(t.services, name)
	}
	if now.Equal(s.resolved) {
		return changes
	}
	changes = append(changes, Change{Old: s.resolved, New: now})
	s.resolved = now
	return changes
}

// All returns what all Services mean, sorted by name, as of the last Next.
func (t *Tracker) All() []*Service { return t.claims.All() }

// Get returns what the Service means as of the last Next; nil: nothing.
func (t *Tracker) Get(name store.ObjectName) *Service { return t.claims.Get(name) }

// Networks returns the ranges that ClusterIPs are from.
func (t *Tracker) Networks() []netip.Prefix { return t.networks }

// Complete reports whether a reset came, before which Next returns nothing.
func (t *Tracker) Complete() bool { return t.complete }
