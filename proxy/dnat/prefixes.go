package dnat

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// disjoint returns the networks of one family, sorted, without those that are part of another: a set of intervals refuses overlaps. Of two
// networks one is part of the other, or they have nothing in common.
func disjoint(networks []netip.Prefix, v6 bool) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range networks {
		if p.IsValid() && p.Addr().Is6() == v6 {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare) // a network comes before its parts
	out := all[:0]
	for _, p := range all {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

func prefixElements(networks []netip.Prefix, v6 bool) []kernel.Element {
	var out []kernel.Element
	for _, p := range disjoint(networks, v6) {
		out = append(out, kernel.Element{Key: []kernel.Datum{{Prefix: p}}})
	}
	return out
}
