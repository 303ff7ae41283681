package bgp

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// blackholed returns the aggregates among the announcements that need a blackhole. Who announces an aggregate has to drop what none of the
// more specific routes fits (RFC 4632, section 5.1): the default route would send it back to the router that it came from, and that
// back here. Two kinds need none: the default route, since what fits nothing is dropped anyway, and an aggregate inside of a network that the node
// is connected to, since there its neighbours are.
func blackholed(announcements []Announcement, uplink kernel.Uplink) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range announcements {
		connected := slices.ContainsFunc(uplink.Addresses, func(p netip.Prefix) bool {
			return p.Bits() <= a.Prefix.Bits() && p.Contains(a.Prefix.Addr())
		})
		if a.Aggregate && a.Prefix.Bits() > 0 && !connected {
			all = append(all, a.Prefix)
		}
	}
	return all
}

// summaries is the fragment of what blackholed returned; nil for nothing.
func summaries(prefixes []netip.Prefix) *kernel.Fragment {
	if len(prefixes) == 0 {
		return nil
	}
	f := blackholes(prefixes)
	f.Owner = "own summaries"
	return f
}
