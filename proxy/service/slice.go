package service

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"github.com/twill-cni/twill/store"
)

// A slice is an EndpointSlice as it is kept: with what the meaning of a Service depends on, and with the names of nodes and zones, which
// thousands of endpoints share, held once in the process.
type slice struct {
	service   store.ObjectName
	ports     []store.EndpointPort
	endpoints []endpoint
}

// An endpoint is a store.Endpoint. Absent names are zero handles.
type endpoint struct {
	addr                        netip.Addr
	node, zone                  name
	hintNodes, hintZones        name // joined by hintSeparator
	ready, serving, terminating bool
}

// A name is an interned string; the zero name is the empty one.
type name = unique.Handle[string]

// hintSeparator is in the name of no node and of no zone.
const hintSeparator = "\n"

func intern(s string) name {
	if s == "" {
		return name{}
	}
	return unique.Make(s)
}

func text(n name) string {
	if n == (name{}) {
		return ""
	}
	return n.Value()
}

// compact returns what is kept of s.
func compact(s *store.EndpointSlice) *slice {
	c := &slice{
		service:   store.ObjectName{Namespace: s.Name.Namespace, Name: s.Service},
		ports:     s.Ports,
		endpoints: make([]endpoint, 0, len(s.Endpoints)),
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if !e.Addr.IsValid() {
			continue
		}
		c.endpoints = append(c.endpoints, endpoint{
			addr:      e.Addr.Unmap(),
			node:      intern(e.Node),
			zone:      intern(e.Zone),
			hintNodes: intern(strings.Join(e.HintNodes, hintSeparator)),
			hintZones: intern(strings.Join(e.HintZones, hintSeparator)),
			ready:     e.Ready, serving: e.Serving, terminating: e.Terminating,
		})
	}
	return c
}

// hinted reports whether hints name who.
func hinted(hints, who name) bool {
	if hints == (name{}) || who == (name{}) {
		return false
	}
	if hints == who {
		return true
	}
	for rest, more := hints.Value(), true; more; {
		var h string
		if h, rest, more = strings.Cut(rest, hintSeparator); h == who.Value() {
			return true
		}
	}
	return false
}

// number returns the port number that the slice gives to a Service's port, and whether it gives one. A slice that says nothing of the
// number means every port, which is no use to a proxy; kube-proxy ignores it as well.
func (s *slice) number(p *store.ServicePort) (uint16, bool) {
	for i := range s.ports {
		if sp := &s.ports[i]; sp.Name == p.Name && sp.Protocol == p.Protocol && sp.Port != 0 {
			return sp.Port, true
		}
	}
	return 0, false
}

// A candidate is an endpoint with the number of the port in question.
type candidate struct {
	*endpoint
	port uint16
}

func (c candidate) addrPort() netip.AddrPort { return netip.AddrPortFrom(c.addr, c.port) }

// usable reports whether the endpoint can answer if no other does: it is ready, or still serving while it terminates.
func (c candidate) usable() bool { return c.ready || c.draining() }

// draining reports whether the endpoint still serves, while it terminates.
func (c candidate) draining() bool { return c.serving && c.terminating && !c.ready }

// compare orders candidates by address and port. Of those that agree in both the first is to be believed: an endpoint that moves from
// one slice to another is in both for a moment, and the address of a terminating pod can be another pod's already. One that does not
// terminate wins (as with kube-proxy), then a ready one, then a serving one. The rest makes the result independent of the slices' order.
func (c candidate) compare(o candidate) int {
	if r := cmp.Or(c.addr.Compare(o.addr), cmp.Compare(c.port, o.port)); r != 0 {
		return r
	}
	return cmp.Or(
		falseFirst(c.terminating, o.terminating),
		falseFirst(!c.ready, !o.ready),
		falseFirst(!c.serving, !o.serving),
		compareNames(c.node, o.node),
		compareNames(c.zone, o.zone),
		compareNames(c.hintNodes, o.hintNodes),
		compareNames(c.hintZones, o.hintZones),
	)
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func compareNames(a, b name) int {
	if a == b {
		return 0
	}
	return cmp.Compare(text(a), text(b))
}

// gather appends to into the endpoints of one family that the slices have for the port: sorted, each address and port once.
func gather(into []candidate, from []*slice, p *store.ServicePort, ipv6 bool) []candidate {
	for _, s := range from {
		number, ok := s.number(p)
		if !ok {
			continue
		}
		for i := range s.endpoints {
			if e := &s.endpoints[i]; e.addr.Is6() == ipv6 {
				into = append(into, candidate{endpoint: e, port: number})
			}
		}
	}
	return believed(into)
}

// believed sorts candidates and keeps one of each address and port.
func believed(all []candidate) []candidate {
	slices.SortFunc(all, candidate.compare)
	return slices.CompactFunc(all, func(a, b candidate) bool { return a.addr == b.addr && a.port == b.port })
}
