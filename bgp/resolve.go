package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// maxRecursion is how many learned routes may lead from a next hop to a link: a loop among them ends there.
const maxRecursion = 4

// resolver finds how next hops are reached. BGP names a router that may be several hops away (RFC 4271, section 5.1.3); the kernel wants a
// gateway on a link, and does not look further than that.
type resolver struct {
	uplink  kernel.Uplink
	own     []netip.Prefix                  // the node's pods, where no router is
	tunnels map[netip.Addr]*kernel.Fragment // what the overlay has for the node with this address
	learned map[netip.Prefix]*Route         // made at the first look
	routes  []*Route                        // all that were learned
	memo    map[resolution]*resolved        // of the sync before
	next    map[resolution]*resolved        // of this one
}

// resolution is a next hop and the family of the prefix that it is for: an overlay has a tunnel for each.
type resolution struct {
	nextHop netip.Addr
	ipv6    bool
}

// resolved is how a next hop is reached. A next hop whose way did not change is the same pointer again.
type resolved struct {
	hops []kernel.NextHop
	err  error
}

func (r *resolved) equal(o *resolved) bool {
	sameErr := (r.err == nil) == (o.err == nil) && (r.err == nil || r.err.Error() == o.err.Error())
	return sameErr && slices.EqualFunc(r.hops, o.hops, func(a, b kernel.NextHop) bool { return a.Compare(b) == 0 })
}

// ways returns how the route's next hops are reached, in their order.
func (r *resolver) ways(route *Route) []*resolved {
	ways := make([]*resolved, len(route.NextHops))
	for i, addr := range route.NextHops {
		ways[i] = r.resolve(resolution{addr, route.Prefix.Addr().Is6()})
	}
	return ways
}

// holds reports whether ways, unless there are none, are the route's still.
func (r *resolver) holds(route *Route, ways []*resolved) bool {
	for i, way := range ways {
		if way != r.resolve(resolution{route.NextHops[i], route.Prefix.Addr().Is6()}) {
			return false
		}
	}
	return true
}

// resolve returns how the next hop is reached.
func (r *resolver) resolve(q resolution) *resolved {
	if known := r.next[q]; known != nil {
		return known
	}
	fresh := &resolved{}
	fresh.hops, fresh.err = r.find(q, 0)
	if old := r.memo[q]; old != nil && old.equal(fresh) {
		fresh = old
	}
	r.next[q] = fresh
	return fresh
}

// find looks in the order in which one way is more certain than the next: a tunnel to the very node, the uplink's own network, the
// routes that the host has, and last the routes that were learned.
func (r *resolver) find(q resolution, depth int) ([]kernel.NextHop, error) {
	addr := q.nextHop
	switch {
	case !addr.IsGlobalUnicast():
		return nil, fmt.Errorf("next hop %s is no unicast address", addr)
	case r.uplink.Has(addr):
		return nil, fmt.Errorf("next hop %s is this node itself", addr)
	case slices.ContainsFunc(r.own, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return nil, fmt.Errorf("next hop %s is in this node's pod subnet", addr)
	}
	if hops := tunnel(r.tunnels[addr], q.ipv6); hops != nil {
		return hops, nil
	}
	if q.ipv6 && (addr.Is4() || addr.Is4In6()) { // the kernel has the other way round only (RFC 8950)
		return nil, fmt.Errorf("next hop %s is no IPv6 address, which an IPv6 route needs", addr)
	}
	if r.uplink.OnLink(addr) {
		return []kernel.NextHop{{Gateway: addr, Link: r.uplink.Name}}, nil
	}
	host, hostBits := r.byHost(addr)
	learned := r.byLearned(addr, hostBits)
	switch {
	case learned != nil && depth == maxRecursion:
		return nil, fmt.Errorf("next hop %s leads through more than %d learned routes", addr, maxRecursion)
	case learned != nil:
		var hops []kernel.NextHop
		for _, further := range learned.NextHops {
			way, err := r.find(resolution{further, q.ipv6}, depth+1)
			if err != nil {
				return nil, fmt.Errorf("next hop %s by way of %s: %w", addr, learned.Prefix, err)
			}
			hops = append(hops, way...)
		}
		return hops, nil
	case host != nil:
		return host, nil
	}
	return nil, fmt.Errorf("next hop %s is neither on %s nor reached by any route", addr, r.uplink.Name)
}

// tunnel returns the way that the overlay has for packets of one family.
func tunnel(f *kernel.Fragment, ipv6 bool) []kernel.NextHop {
	if f == nil {
		return nil
	}
	for i := range f.Routes {
		if f.Routes[i].Dst.Addr().Is6() == ipv6 {
			return f.Routes[i].NextHops
		}
	}
	return nil
}

// byHost returns the way to addr by the host's own routes, and the length of the prefix that led there; -1 for none.
func (r *resolver) byHost(addr netip.Addr) (hops []kernel.NextHop, bits int) {
	var best *kernel.Route
	for i := range r.uplink.Routes {
		route := &r.uplink.Routes[i]
		if route.Dst.Contains(addr) && (best == nil || route.Dst.Bits() > best.Dst.Bits() ||
			route.Dst.Bits() == best.Dst.Bits() && route.Key().Metric < best.Key().Metric) {
			best = route
		}
	}
	if best == nil {
		return nil, -1
	}
	for _, h := range best.NextHops {
		if !h.Gateway.IsValid() {
			h.Gateway = addr
		}
		hops = append(hops, h)
	}
	return hops, best.Dst.Bits()
}

// byLearned returns the most specific learned route to addr that is more specific than bits. Default routes do not count: every next
// hop would be reachable by them.
func (r *resolver) byLearned(addr netip.Addr, bits int) *Route {
	if r.learned == nil {
		r.learned = map[netip.Prefix]*Route{}
		for _, route := range r.routes {
			if !route.Local {
				r.learned[route.Prefix] = route
			}
		}
	}
	for n := addr.BitLen(); n > max(bits, 0); n-- {
		if route := r.learned[netip.PrefixFrom(addr, n).Masked()]; route != nil && !slices.Contains(route.NextHops, addr) {
			return route
		}
	}
	return nil
}
