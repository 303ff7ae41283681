package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Resolve says what svc with its EndpointSlices, in any order, means on the node. It is nil for what a node has no business with: no
// Service at all (nil), a headless one, an ExternalName, and one that another proxy serves.
//
// The meaning is that of kube-proxy 1.37 in nftables mode, with these differences. loadBalancerSourceRanges that hold no network of a family
// let nobody in by that family, where kube-proxy lets everybody in. Of a dual-stack Service one health check answers for both families,
// with the larger count. Weights and schedulers are ours alone.
func Resolve(svc *store.Service, from []*store.EndpointSlice, node *Node) *Service {
	compacted := make([]*slice, 0, len(from))
	for _, s := range from {
		compacted = append(compacted, compact(s))
	}
	return newResolver(node).resolve(svc, compacted)
}

// A resolver resolves Services for one node, one at a time.
type resolver struct {
	*Node
	node, zone name
	candidates []candidate // scratch
}

func newResolver(node *Node) *resolver {
	return &resolver{Node: node, node: intern(node.Name), zone: intern(node.Zone)}
}

func (r *resolver) resolve(svc *store.Service, from []*slice) *Service {
	if !r.serves(svc) {
		return nil
	}
	s := &Service{Name: svc.Name, Created: svc.Created}
	scheduler, warnings := r.schedule(svc)
	s.Warnings = append(warnings, weights(svc.Weights).unmatched(from)...)
	v := &view{resolver: r, svc: svc, from: from, out: s, scheduler: scheduler, weights: svc.Weights}
	if !scheduler.weighted() {
		v.weights = nil
	}
	s.Frontends = make([]Frontend, 0, v.size())
	for _, ipv6 := range []bool{false, true} {
		if slices.ContainsFunc(svc.ClusterIPs, family(ipv6)) {
			v.family(ipv6)
		} else {
			v.unreachable(ipv6)
		}
	}
	v.unmatchedPorts()
	v.healthCheck()
	v.finish()
	return s
}

// serves reports whether svc is this proxy's.
func (r *resolver) serves(svc *store.Service) bool {
	return svc != nil && !svc.Headless && len(svc.ClusterIPs) > 0 && svc.Type != store.ServiceExternalName && svc.ProxyName == r.ProxyName
}

func family(ipv6 bool) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return a.IsValid() && a.Unmap().Is6() == ipv6 }
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// A view is the resolution of one Service.
type view struct {
	*resolver
	svc       *store.Service
	from      []*slice
	out       *Service
	scheduler Scheduler
	weights   weights // nil when the scheduler takes none

	// Of the family in question:
	allowed     []netip.Prefix
	used, local bool // some port has an endpoint for traffic policy Cluster, Local; see Address.Ready
}

func (v *view) warn(format string, args ...any) {
	v.out.Warnings = append(v.out.Warnings, fmt.Sprintf(format, args...))
}

// family adds the frontends of one family that the Service has.
func (v *view) family(ipv6 bool) {
	v.allowed, v.used, v.local = v.allowedClients(ipv6), false, false
	for i := range v.svc.Ports {
		p := &v.svc.Ports[i]
		all := gather(v.candidates[:0], v.from, p, ipv6)
		v.candidates = all
		there := len(all)
		connected := v.connected(p, all)
		if all = v.weighing(all); there > 0 && len(all) == 0 {
			v.warn("port %s: all %s endpoints weigh 0, so nobody answers", portName(p), familyName(ipv6))
		}
		c := v.choose(all, v.weights)
		v.used = v.used || c.any
		v.local = v.local || c.localReady || !c.ready && len(c.local) > 0
		c.draining = without(connected, c.cluster)
		v.port(p, ipv6, c)
	}
	v.addresses(ipv6)
}

// weighing returns those that weigh more than 0.
func (v *view) weighing(all []candidate) []candidate {
	w := weights(v.svc.Weights)
	if len(w) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return w.lookup(c.endpoint) == 0 })
}

// port adds the frontends of one port in one family.
func (v *view) port(p *store.ServicePort, ipv6 bool, c choice) {
	inside := Frontend{Kind: ClusterIP, Endpoints: c.cluster, Draining: c.draining, Masquerade: MasqueradeOffCluster}
	if v.MasqueradeAll {
		inside.Masquerade = MasqueradeAlways
	}
	if v.svc.InternalLocal {
		inside.Endpoints, inside.Empty = c.local, c.emptyLocal()
	}
	outside := Frontend{Endpoints: c.cluster, Draining: c.draining, Masquerade: MasqueradeAlways}
	if v.svc.ExternalLocal {
		outside.Endpoints, outside.Empty, outside.Masquerade = c.local, c.emptyLocal(), MasqueradeNever
		if !same(c.local, c.cluster) {
			outside.Inside = &Backends{Endpoints: c.cluster}
		}
	}
	of := family(ipv6)
	for _, a := range v.svc.ClusterIPs {
		if of(a) {
			v.add(inside, p, a, p.Port)
		}
	}
	if p.NodePort != 0 {
		for _, a := range v.NodePortAddrs {
			if of(a) {
				outside.Kind = NodePort
				v.add(outside, p, a, p.NodePort)
			}
		}
	}
	for _, a := range v.svc.ExternalIPs {
		if of(a) {
			outside.Kind = ExternalIP
			v.add(outside, p, a, p.Port)
		}
	}
	for _, in := range v.svc.Ingress {
		if of(in.Addr) && !in.Proxy {
			outside.Kind, outside.Allowed = LoadBalancer, v.allowed
			v.add(outside, p, in.Addr, p.Port)
		}
	}
}

// emptyLocal says what becomes of clients when no endpoint is here: if there are some elsewhere, the packet was sent to the wrong node.
func (c choice) emptyLocal() Empty {
	if c.any {
		return Drop
	}
	return Reject
}

func (v *view) add(f Frontend, p *store.ServicePort, addr netip.Addr, port uint16) {
	f.FrontendKey = FrontendKey{Addr: addr.Unmap(), Protocol: p.Protocol, Port: port}
	f.PortName, f.Affinity, f.Scheduler = p.Name, v.svc.AffinityTimeout, v.scheduler
	f.ResetConnections = v.svc.ResetConnections && p.Protocol == store.TCP
	v.out.Frontends = append(v.out.Frontends, f)
}

// precedence orders the kinds of frontends of one Service that have the same key: of an address that is both an externalIP and the load
// balancer's, the source ranges hold.
func precedence(k Kind) int {
	return slices.Index([]Kind{ClusterIP, LoadBalancer, ExternalIP, NodePort}, k)
}

// finish puts what was found in order.
func (v *view) finish() {
	s := v.out
	slices.SortStableFunc(s.Frontends, func(a, b Frontend) int {
		return cmp.Or(a.FrontendKey.Compare(b.FrontendKey), cmp.Compare(precedence(a.Kind), precedence(b.Kind)))
	})
	s.Frontends = slices.CompactFunc(s.Frontends, func(a, b Frontend) bool { return a.FrontendKey == b.FrontendKey })
	slices.SortFunc(s.Addrs, Address.compare)
	s.Addrs = slices.Compact(s.Addrs)
}

// portName is what a port is called in a warning.
func portName(p *store.ServicePort) string {
	if p.Name != "" {
		return fmt.Sprintf("%q", p.Name)
	}
	return fmt.Sprintf("%s %d", p.Protocol, p.Port)
}
