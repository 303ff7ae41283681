package peers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// of returns the fragments that lead to one of the subnets, or to a part of one. Where none does, those that lead to the least of what has all of the
// subnet in it: a router may announce no more than the whole cluster's network.
func of(wanted *node.Wanted, subnets store.Subnets) []*kernel.Fragment {
	var lead []netip.Prefix
	for _, subnet := range []netip.Prefix{subnets.IPv4, subnets.IPv6} {
		if !subnet.IsValid() {
			continue
		}
		if !slices.ContainsFunc(wanted.Fragments, leadsInto(subnet)) {
			if way, ok := wanted.Way(subnet); ok {
				lead = append(lead, way)
			}
		}
	}
	var found []*kernel.Fragment
	for _, f := range wanted.Fragments {
		if slices.ContainsFunc(f.Routes, func(r kernel.Route) bool { return leads(r, subnets) || slices.Contains(lead, r.Dst) }) {
			found = append(found, f)
		}
	}
	return found
}

func leadsInto(subnet netip.Prefix) func(*kernel.Fragment) bool {
	return func(f *kernel.Fragment) bool {
		return slices.ContainsFunc(f.Routes, func(r kernel.Route) bool { return within(r.Dst, subnet) })
	}
}

func leads(r kernel.Route, subnets store.Subnets) bool {
	return within(r.Dst, subnets.IPv4) || within(r.Dst, subnets.IPv6)
}

func within(p, subnet netip.Prefix) bool {
	return subnet.IsValid() && p.Bits() >= subnet.Bits() && subnet.Contains(p.Addr())
}

// compare says of each object that the fragments want, and of each that leads to the node's subnets, how it is.
func compare(want []*kernel.Fragment, have kernel.Fragment, subnets store.Subnets) []api.HeldObject {
	all := []api.HeldObject{}
	var wanted kernel.Fragment
	for _, f := range want {
		wanted.Routes = append(wanted.Routes, f.Routes...)
		wanted.Neighbors = append(wanted.Neighbors, f.Neighbors...)
		wanted.FDB = append(wanted.FDB, f.FDB...)
	}
	all = append(all, judge("route", wanted.Routes, have.Routes, match[kernel.Route, kernel.RouteKey]{
		key: kernel.Route.Key, equal: kernel.Route.Equal, text: routeText,
		stray: func(r kernel.Route) bool { return leads(r, subnets) },
	})...)
	all = append(all, judge("neighbor", wanted.Neighbors, have.Neighbors, match[kernel.Neighbor, kernel.NeighborKey]{
		key: kernel.Neighbor.Key, equal: func(a, b kernel.Neighbor) bool { return a == b }, text: kernel.Neighbor.String,
		stray: func(n kernel.Neighbor) bool {
			return subnets.IPv4.IsValid() && subnets.IPv4.Contains(n.IP) || subnets.IPv6.IsValid() && subnets.IPv6.Contains(n.IP)
		},
	})...)
	return append(all, judge("fdb", wanted.FDB, have.FDB, match[kernel.FDBEntry, kernel.FDBKey]{
		key: kernel.FDBEntry.Key, equal: func(a, b kernel.FDBEntry) bool { return a == b }, text: kernel.FDBEntry.String,
		stray: func(kernel.FDBEntry) bool { return false }, // of entries that nobody wants it is not known whose they are
	})...)
}

// match is how objects of a kind compare.
type match[T any, K comparable] struct {
	key   func(T) K
	equal func(a, b T) bool
	text  func(T) string
	stray func(T) bool // one that is not wanted concerns the node
}

func judge[T any, K comparable](kind string, want, have []T, m match[T, K]) []api.HeldObject {
	there := make(map[K]T, len(have))
	for _, h := range have {
		there[m.key(h)] = h
	}
	var all []api.HeldObject
	wanted := map[K]bool{}
	for _, w := range want {
		wanted[m.key(w)] = true
		o := api.HeldObject{Kind: kind, Should: m.text(w), Verdict: api.HeldMissing}
		if h, ok := there[m.key(w)]; ok {
			o.Is, o.Verdict = m.text(h), api.HeldOther
			if m.equal(w, h) {
				o.Verdict = api.HeldWell
			}
		}
		all = append(all, o)
	}
	for _, h := range have {
		if !wanted[m.key(h)] && m.stray(h) {
			all = append(all, api.HeldObject{Kind: kind, Is: m.text(h), Verdict: api.HeldStray})
		}
	}
	return all
}

// routeText is the route with what Route.String leaves out.
func routeText(r kernel.Route) string {
	var text strings.Builder
	text.WriteString(r.String())
	switch r.Type {
	case kernel.Blackhole:
		text.WriteString(" blackhole")
	case kernel.Unreachable:
		text.WriteString(" unreachable")
	}
	if len(r.NextHops) == 1 && r.NextHops[0].OnLink {
		text.WriteString(" onlink")
	}
	if r.Metric != 0 {
		fmt.Fprintf(&text, " metric %d", r.Metric)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&text, " mtu %d", r.MTU)
	}
	return text.String()
}
