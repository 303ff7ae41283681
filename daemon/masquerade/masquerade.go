package masquerade

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// TableName is the name of the table, of family inet.
const TableName = kernel.TablePrefix + "masquerade"

const (
	srcnat       = 100    // NF_IP_PRI_NAT_SRC
	statusDstNAT = 1 << 5 // IPS_DST_NAT, include/uapi/linux/netfilter/nf_conntrack_common.h
)

// Config says what is where. Prefixes are of any family and in any order; host bits do not count, and a prefix inside
// another one of the same list has no effect.
type Config struct {
	Cluster []netip.Prefix // the cluster network: addresses of all pods
	Local   []netip.Prefix // this node's subnets of it
	Exempt  []netip.Prefix // more destinations to which pods keep their source
}

// family is what distinguishes the rules of IPv4 and IPv6.
type family struct {
	suffix       string // of set names
	addr         kernel.Type
	saddr, daddr kernel.Field
	never        []netip.Prefix // multicast and the like
}

var families = [...]family{
	{"-v4", kernel.TypeIPv4Addr, kernel.FieldIPSaddr, kernel.FieldIPDaddr, []netip.Prefix{
		netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32")}},
	{"-v6", kernel.TypeIPv6Addr, kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, []netip.Prefix{
		netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")}},
}

// Table returns the table for the config. The same prefixes in any order yield the same table. A family without a cluster
// network has no rules; without any there is an empty chain.
func Table(cfg Config) kernel.Table {
	t := kernel.Table{Family: kernel.FamilyInet, Name: TableName}
	chain := kernel.Chain{
		Name:    "postrouting",
		Hook:    &kernel.Hook{Type: "nat", Hook: "postrouting", Priority: srcnat},
		Comment: "whose source address becomes this node's",
	}
	for _, f := range families {
		cluster := f.prefixes(cfg.Cluster)
		if len(cluster) == 0 {
			continue
		}
		t.Sets = append(t.Sets,
			f.set("cluster", "addresses of all pods", cluster),
			f.set("local", "addresses of this node's pods", f.prefixes(cfg.Local)),
			f.set("exempt", "multicast, broadcast and configured exemptions", f.prefixes(append(slices.Clone(f.never), cfg.Exempt...))),
		)
		chain.Rules = append(chain.Rules, f.rules()...)
	}
	t.Chains = []kernel.Chain{chain}
	return t
}

// rules returns the family's part of the chain; doc.go has the reasons.
func (f family) rules() []kernel.Rule {
	from := func(set string) kernel.Expr {
		return kernel.Lookup{Fields: []kernel.Operand{f.saddr}, Set: set + f.suffix}
	}
	to := func(set string) kernel.Expr {
		return kernel.Lookup{Fields: []kernel.Operand{f.daddr}, Set: set + f.suffix}
	}
	notTranslated := kernel.Compare{Field: kernel.FieldCTStatus, Mask: statusDstNAT, Not: true, Value: kernel.Datum{Number: statusDstNAT}}
	asIs := kernel.Verdict{Kind: kernel.Return}
	masquerade := kernel.Masquerade{FullyRandom: true}
	rule := func(comment string, exprs ...kernel.Expr) kernel.Rule {
		return kernel.Rule{Exprs: exprs, Comment: comment}
	}
	return []kernel.Rule{
		rule("to this node's pods", to("local"), asIs),
		rule("pod to pod", from("local"), to("cluster"), asIs),
		rule("pod to pod through this node", from("cluster"), to("cluster"), notTranslated, asIs),
		rule("node port or host to another node's pod", to("cluster"), masquerade),
		rule("pod to multicast or exempted", from("cluster"), to("exempt"), asIs),
		rule("pod to the world", from("cluster"), masquerade),
	}
}

func (f family) set(name, comment string, prefixes []netip.Prefix) kernel.Set {
	s := kernel.Set{Name: name + f.suffix, Key: []kernel.Type{f.addr}, Interval: true, Comment: comment}
	for _, p := range prefixes {
		s.Elements = append(s.Elements, kernel.Element{Key: []kernel.Datum{{Prefix: p}}})
	}
	return s
}

// prefixes returns those of the family, sorted and without the ones that lie inside another: ranges in a set must not overlap,
// and two prefixes overlap only when one holds the other.
func (f family) prefixes(all []netip.Prefix) []netip.Prefix {
	all = slices.SortedFunc(slices.Values(all), netip.Prefix.Compare) // an outer prefix comes before what is inside
	var out []netip.Prefix
	for _, p := range all {
		inside := len(out) > 0 && out[len(out)-1].Contains(p.Addr())
		if p.IsValid() && p.Addr().Is4() == (f.addr == kernel.TypeIPv4Addr) && !inside {
			out = append(out, p.Masked())
		}
	}
	return out
}
