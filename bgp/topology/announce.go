package topology

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

// announced is what this node originates.
type announced struct {
	all        []bgp.Announcement // sorted by prefix
	prepend    map[uint8][]bgp.PrefixMatch
	aggregates []config.Aggregate // those among all
}

// announcements collects the node's own subnets, the extra prefixes, the addresses of Services and the aggregates. Of two with one prefix, the
// first in this order counts.
func (v *view) announcements() announced {
	said := announced{prepend: map[uint8][]bgp.PrefixMatch{}}
	seen := map[netip.Prefix]bool{}
	say := func(a bgp.Announcement, what string) bool {
		switch {
		case seen[a.Prefix] && a.Origin == bgp.OriginService:
			return false // it is announced, and that is what its Service asks for
		case seen[a.Prefix]:
			v.reject(what+" "+a.Prefix.String(), errors.New("this node announces that prefix already"))
			return false
		}
		if a.NextHop = publicOf(v.Self, a.Prefix.Addr().Is6()); !a.NextHop.IsValid() {
			v.reject(what+" "+a.Prefix.String(), errors.New("this node has no address of the prefix's family that could be its next hop"))
			return false
		}
		seen[a.Prefix] = true
		said.all = append(said.all, a)
		return true
	}
	add := func(prefix netip.Prefix, attrs config.Attributes, origin bgp.Origin) bool {
		ok := say(bgp.Announcement{
			Prefix: prefix, Communities: attrs.Communities, LargeCommunities: attrs.LargeCommunities, LocalPref: attrs.LocalPref, MED: attrs.MED,
			Aggregate: origin == bgp.OriginAggregate && !v.hasServices(prefix), Origin: origin,
		}, string(origin))
		if ok && attrs.Prepend > 0 {
			said.prepend[attrs.Prepend] = append(said.prepend[attrs.Prepend], exactly(prefix))
		}
		return ok
	}

	for _, subnet := range []netip.Prefix{v.Self.Subnet, v.Self.IPv6Subnet} {
		if subnet.IsValid() {
			add(subnet, v.Node.PodSubnets, bgp.OriginPodSubnet)
		}
	}
	for _, a := range v.Config.Announce {
		if a.Nodes.Matches(v.Node.Name, v.Node.Labels) {
			add(a.Prefix, a.Attributes, bgp.OriginConfig)
		}
	}
	for _, s := range v.services() {
		if add(s.Prefix, v.Config.Services.Attributes, bgp.OriginService) {
			said.all[len(said.all)-1].Translated = s.Kind != bgp.ClusterIP // the proxy refuses what it does not translate of those
		}
	}
	specific := slices.Clone(said.all)
	for _, a := range v.Config.Aggregates {
		if a.Nodes.Matches(v.Node.Name, v.Node.Labels) && slices.ContainsFunc(specific, func(s bgp.Announcement) bool { return within(s.Prefix, a.Prefix) }) &&
			add(a.Prefix, a.Attributes, bgp.OriginAggregate) {
			said.aggregates = append(said.aggregates, a)
		}
	}
	slices.SortFunc(said.all, func(a, b bgp.Announcement) int { return a.Prefix.Compare(b.Prefix) })
	return said
}

// within reports whether p is more specific than q and inside it.
func within(p, q netip.Prefix) bool { return p.Bits() > q.Bits() && q.Contains(p.Addr()) }

func exactly(p netip.Prefix) bgp.PrefixMatch {
	return bgp.PrefixMatch{Prefix: p, Min: p.Bits(), Max: p.Bits()}
}

// inside matches a prefix and all within it.
func inside(p netip.Prefix) bgp.PrefixMatch {
	return bgp.PrefixMatch{Prefix: p, Min: p.Bits(), Max: p.Addr().BitLen()}
}
