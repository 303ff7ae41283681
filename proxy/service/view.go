package service

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// size is how many frontends the Service has at most.
func (v *view) size() int {
	n := 0
	for i := range v.svc.Ports {
		n += len(v.svc.ClusterIPs) + len(v.svc.ExternalIPs) + len(v.svc.Ingress)
		if v.svc.Ports[i].NodePort != 0 {
			n += len(v.NodePortAddrs)
		}
	}
	return n
}

// allowedClients returns what loadBalancerSourceRanges mean in one family; nil: every client. A range of length 0 allows every client.
//
// A range that holds the node's own address stands for the node. Where the load balancer's address is configured on the node, the node's
// connections to it come from that very address, so it is let in as well (as with kube-proxy).
func (v *view) allowedClients(ipv6 bool) []netip.Prefix {
	if len(v.svc.SourceRanges) == 0 {
		return nil
	}
	of, node := family(ipv6), false
	allowed := []netip.Prefix{}
	for _, p := range v.svc.SourceRanges {
		if !of(p.Addr()) {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		allowed = append(allowed, p.Masked())
		node = node || slices.ContainsFunc(v.Addrs, p.Contains) || slices.ContainsFunc(v.NodePortAddrs, p.Contains)
	}
	for _, in := range v.svc.Ingress {
		if node && of(in.Addr) && !in.Proxy {
			allowed = append(allowed, hostPrefix(in.Addr))
		}
	}
	if len(allowed) == 0 && slices.ContainsFunc(v.svc.Ingress, func(in store.Ingress) bool { return of(in.Addr) && !in.Proxy }) {
		v.warn("loadBalancerSourceRanges hold no %s network, so no %[1]s client reaches the load balancer's address", familyName(ipv6))
	}
	slices.SortFunc(allowed, comparePrefixes)
	return slices.Compact(allowed)
}

func hostPrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen())
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// addresses adds the addresses of one family, to be announced.
func (v *view) addresses(ipv6 bool) {
	of := family(ipv6)
	add := func(a netip.Addr, kind Kind, local bool) {
		if !of(a) {
			return
		}
		ready := v.used
		if local {
			ready = v.local
		}
		v.out.Addrs = append(v.out.Addrs, Address{Addr: a.Unmap(), Kind: kind, Local: local, Ready: ready})
	}
	for _, a := range v.svc.ClusterIPs {
		add(a, ClusterIP, v.svc.InternalLocal)
	}
	for _, a := range v.svc.ExternalIPs {
		add(a, ExternalIP, v.svc.ExternalLocal)
	}
	for _, in := range v.svc.Ingress {
		if !in.Proxy {
			add(in.Addr, LoadBalancer, v.svc.ExternalLocal)
		}
	}
}

func (a Address) compare(o Address) int {
	return cmp.Or(a.Addr.Compare(o.Addr), cmp.Compare(a.Kind, o.Kind))
}

// unreachable warns of addresses of a family that the Service does not have: it does not answer there, as with kube-proxy.
func (v *view) unreachable(ipv6 bool) {
	of := family(ipv6)
	for _, a := range v.svc.ExternalIPs {
		if of(a) {
			v.warn("external address %s has no effect: the Service has no %s address of its own", a, familyName(ipv6))
		}
	}
	for _, in := range v.svc.Ingress {
		if of(in.Addr) && !in.Proxy {
			v.warn("load balancer address %s has no effect: the Service has no %s address of its own", in.Addr, familyName(ipv6))
		}
	}
}

// unmatchedPorts warns of ports that no EndpointSlice knows, while there are endpoints.
func (v *view) unmatchedPorts() {
	if !slices.ContainsFunc(v.from, func(s *slice) bool { return len(s.endpoints) > 0 }) {
		return
	}
	for i := range v.svc.Ports {
		p := &v.svc.Ports[i]
		if !slices.ContainsFunc(v.from, func(s *slice) bool { _, ok := s.number(p); return ok }) {
			v.warn("port %s has no endpoints: no EndpointSlice of the Service has a %s port of that name", portName(p), p.Protocol)
		}
	}
}

// healthCheck sets the Service's health check, which a LoadBalancer with externalTrafficPolicy Local has.
func (v *view) healthCheck() {
	svc := v.svc
	if svc.Type != store.ServiceLoadBalancer || !svc.ExternalLocal || svc.HealthCheckNodePort == 0 {
		return
	}
	local := 0
	for _, ipv6 := range []bool{false, true} {
		if slices.ContainsFunc(svc.ClusterIPs, family(ipv6)) {
			local = max(local, v.localReady(ipv6))
		}
	}
	v.out.HealthCheck = &HealthCheck{Port: svc.HealthCheckNodePort, LocalEndpoints: local}
}

// localReady counts the ready endpoints of one family on this node, each address once, whatever its ports.
func (v *view) localReady(ipv6 bool) int {
	local := v.candidates[:0]
	for _, s := range v.from {
		if !slices.ContainsFunc(s.ports, func(p store.EndpointPort) bool { return p.Port != 0 }) {
			continue
		}
		for i := range s.endpoints {
			if c := (candidate{endpoint: &s.endpoints[i]}); c.addr.Is6() == ipv6 && v.isLocal(c) {
				local = append(local, c)
			}
		}
	}
	n := 0
	for _, c := range v.weighing(believed(local)) {
		if c.ready {
			n++
		}
	}
	v.candidates = local
	return n
}
