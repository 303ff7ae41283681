package topology

import (
	"maps"
	"slices"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

// nodeFilters are the rules of sessions with nodes: all nodes share them.
type nodeFilters struct {
	in        []bgp.Rule
	own       []bgp.Rule // to nodes that hear of this one alone
	reflected []bgp.Rule // to those that hear of others too
}

func (v *view) nodeFilters(said announced) nodeFilters {
	extra := v.extra()
	cluster := slices.Concat(v.pools(), extra)
	var hidden []bgp.Rule // what is not for nodes
	if private := said.aggregatesBut(func(a config.Aggregate) bool { return a.ToNodes }); len(private) > 0 {
		hidden = []bgp.Rule{{Prefixes: private, Originated: true, Reject: true}}
	}
	rest := []bgp.Rule{{Reject: true}}
	own := bgp.Rule{Prefixes: cluster, Originated: true}
	f := nodeFilters{
		in:        []bgp.Rule{{Prefixes: cluster}, rest[0]},
		own:       slices.Concat(hidden, []bgp.Rule{own}),
		reflected: slices.Concat(hidden, []bgp.Rule{{Prefixes: cluster}}, rest),
	}
	if len(extra) > 0 {
		f.own = append(f.own, bgp.Rule{Prefixes: extra, External: true})
	}
	f.own = append(f.own, rest...)
	return f
}

// pools match all prefixes that pods may have.
func (v *view) pools() []bgp.PrefixMatch {
	var all []bgp.PrefixMatch
	if v.Network.EnableIPv4 {
		all = append(all, inside(v.Network.IPv4.Network))
	}
	if v.Network.EnableIPv6 {
		all = append(all, inside(v.Network.IPv6.Network))
	}
	return all
}

// extra matches what nodes take from nodes besides: what the configuration lets any node announce, and accept.
func (v *view) extra() []bgp.PrefixMatch {
	all := slices.Clone(v.Config.Accept)
	for _, a := range v.Config.Announce {
		all = append(all, exactly(a.Prefix))
	}
	for _, a := range v.Config.Aggregates {
		if a.ToNodes {
			all = append(all, exactly(a.Prefix))
		}
	}
	return all
}

// toExternal returns what a peer that is not a node hears: what the peer's own rules say, else all that this node originates, and nothing
// else. With summaryOnly, not even a rule lets a more specific prefix out.
func (a announced) toExternal(own []bgp.Rule) []bgp.Rule {
	var rules []bgp.Rule
	var covered []bgp.PrefixMatch
	for _, g := range a.aggregates {
		if g.SummaryOnly && g.ToExternal {
			covered = append(covered, bgp.PrefixMatch{Prefix: g.Prefix, Min: g.Prefix.Bits() + 1, Max: g.Prefix.Addr().BitLen()})
		}
	}
	if len(covered) > 0 {
		rules = append(rules, bgp.Rule{Prefixes: covered, Reject: true})
	}
	if private := a.aggregatesBut(func(g config.Aggregate) bool { return g.ToExternal }); len(private) > 0 {
		rules = append(rules, bgp.Rule{Prefixes: private, Originated: true, Reject: true})
	}
	rules = append(rules, own...)
	for _, times := range slices.Sorted(maps.Keys(a.prepend)) {
		rules = append(rules, bgp.Rule{Prefixes: a.prepend[times], Originated: true, Prepend: times})
	}
	return append(rules, bgp.Rule{Originated: true}, bgp.Rule{Reject: true})
}

// aggregatesBut returns the aggregates that do not go there.
func (a announced) aggregatesBut(goes func(config.Aggregate) bool) []bgp.PrefixMatch {
	var out []bgp.PrefixMatch
	for _, g := range a.aggregates {
		if !goes(g) {
			out = append(out, exactly(g.Prefix))
		}
	}
	return out
}
