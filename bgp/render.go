package bgp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

const (
	// RouteMetric is that of learned routes. It differs from the 0 of routes that a host's administrator or the VXLAN backend makes: a
	// learned route never takes the place of one of those, and a node that changes its backend has the new route before the old one goes.
	RouteMetric = 32
	// blackholeMetric is behind that of the bridge's own route, which holds as long as the bridge is up.
	blackholeMetric = 4096
)

// side is the node's own side of what it learns.
type side struct {
	uplink  kernel.Uplink
	self    *store.Lease
	tunnels map[netip.Addr]*kernel.Fragment // by node address
}

// renderer turns learned routes into fragments. It remembers what it made.
type renderer struct {
	memo     kernel.Memo[*Route, *rendered]
	resolved map[resolution]*resolved
	own      *kernel.Fragment
	networks []netip.Prefix // the node's own; the memo is empty when they change
}

// rendered is what a learned route comes to.
type rendered struct {
	fragment *kernel.Fragment // nil when it is not for the kernel
	reject   *store.Reject
	tunneled bool        // the overlay has a way to the whole prefix
	ways     []*resolved // of its next hops
}

// fragments returns what the kernel should hold, and which routes it should not.
func (r *renderer) fragments(s side, learned []*Route) ([]*kernel.Fragment, []store.Reject) {
	networks := valid(s.self.Subnet, s.self.IPv6Subnet)
	pods := len(networks)
	for _, p := range s.uplink.Addresses {
		networks = append(networks, p.Masked())
	}
	if r.own == nil || !slices.Equal(networks, r.networks) {
		*r = renderer{networks: networks, own: blackholes(networks[:pods])}
	}
	found := &resolver{uplink: s.uplink, own: networks[:pods], tunnels: s.tunnels, routes: learned, memo: r.resolved, next: map[resolution]*resolved{}}
	tunneled := map[netip.Prefix]bool{}
	for _, f := range s.tunnels {
		for i := range f.Routes {
			tunneled[f.Routes[i].Dst] = true
		}
	}
	fragments := distinct(s.tunnels) // these, then "bgp ...", then "own ...": sorted by owner, which costs the reconciler least
	fragments = slices.Grow(fragments, len(learned)+2)
	var rejects []store.Reject
	for _, route := range r.memo.Render(learned, kernel.Renderer[*Route, *rendered]{
		Compare: func(a, b *Route) int { return a.Prefix.Compare(b.Prefix) },
		Owner:   owner,
		Render:  func(route *Route) *rendered { return r.route(route, found, tunneled[route.Prefix]) },
		Valid: func(route *Route, old *rendered) bool {
			return old.tunneled == tunneled[route.Prefix] && found.holds(route, old.ways)
		},
	}) {
		if route.fragment != nil {
			fragments = append(fragments, route.fragment)
		}
		if route.reject != nil {
			rejects = append(rejects, *route.reject)
		}
	}
	r.resolved = found.next
	return append(fragments, r.own), rejects
}

func owner(r *Route) string {
	const longest = len("bgp ") + len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")
	return string(r.Prefix.AppendTo(append(make([]byte, 0, longest), "bgp "...)))
}

// blackholes is the fragment of the node's own subnets.
func blackholes(pods []netip.Prefix) *kernel.Fragment {
	f := &kernel.Fragment{Owner: "own subnets"}
	for _, p := range pods {
		f.Routes = append(f.Routes, kernel.Route{Dst: p, Metric: blackholeMetric, Type: kernel.Blackhole})
	}
	return f
}

// distinct returns the fragments once each, sorted by owner.
func distinct(byAddress map[netip.Addr]*kernel.Fragment) []*kernel.Fragment {
	seen := make(map[*kernel.Fragment]bool, len(byAddress))
	for _, f := range byAddress {
		seen[f] = true
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b *kernel.Fragment) int { return strings.Compare(a.Owner, b.Owner) })
}

// route renders one learned route.
func (r *renderer) route(route *Route, found *resolver, tunneled bool) *rendered {
	out := &rendered{tunneled: tunneled}
	if route.Local || tunneled {
		return out
	}
	err := r.acceptable(route)
	if err == nil {
		out.ways = found.ways(route)
		out.fragment, err = fragment(route, out.ways)
	}
	if err != nil {
		out.reject = &store.Reject{Key: owner(route), Err: err}
	}
	return out
}

// acceptable refuses what no peer may tell this node, whatever the filters let pass.
func (r *renderer) acceptable(route *Route) error {
	p := route.Prefix
	if len(route.NextHops) == 0 {
		return errors.New("it has no next hop")
	}
	if a := p.Addr(); p.Bits() > 0 && (a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast()) {
		return fmt.Errorf("%s is not a network that packets are routed to", p)
	}
	for _, own := range r.networks {
		if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			return fmt.Errorf("%s is within %s, which this node is connected to", p, own)
		}
	}
	return nil
}

// fragment joins the ways of all next hops. One that leads nowhere does not keep the others from being used.
func fragment(route *Route, ways []*resolved) (*kernel.Fragment, error) {
	kr := kernel.Route{Dst: route.Prefix, Metric: RouteMetric}
	var errs []error
	for _, w := range ways {
		kr.NextHops = append(kr.NextHops, w.hops...)
		if w.err != nil {
			errs = append(errs, w.err)
		}
	}
	slices.SortFunc(kr.NextHops, kernel.NextHop.Compare)
	kr.NextHops = slices.CompactFunc(kr.NextHops, func(a, b kernel.NextHop) bool { return a.Compare(b) == 0 })
	if len(kr.NextHops) == 0 {
		return nil, errors.Join(errs...)
	}
	return &kernel.Fragment{Owner: owner(route), Routes: []kernel.Route{kr}}, errors.Join(errs...)
}

func valid(prefixes ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
}
