package deadend

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// TableName is the name of the table, of family inet.
const TableName = kernel.TablePrefix + "deadend"

// Table returns the table that drops what would be forwarded to one of the host routes. The same prefixes in any order, once or twice, yield the same
// table. Without any it has an empty set.
func Table(hosts []netip.Prefix) kernel.Table {
	hosts = slices.SortedFunc(slices.Values(hosts), netip.Prefix.Compare)
	hosts = slices.Compact(hosts)
	t := kernel.Table{Family: kernel.FamilyInet, Name: TableName}
	chain := kernel.Chain{
		Name:    "forward",
		Hook:    &kernel.Hook{Type: "filter", Hook: "forward"},
		Comment: "what was not translated, although it is for a Service",
	}
	for _, f := range [...]struct {
		set   string
		addr  kernel.Type
		daddr kernel.Field
	}{{"services-v4", kernel.TypeIPv4Addr, kernel.FieldIPDaddr}, {"services-v6", kernel.TypeIPv6Addr, kernel.FieldIP6Daddr}} {
		s := kernel.Set{Name: f.set, Key: []kernel.Type{f.addr}, Comment: "addresses of Services that this node announces"}
		for _, p := range hosts {
			if p.Addr().Is4() == (f.addr == kernel.TypeIPv4Addr) {
				s.Elements = append(s.Elements, kernel.Element{Key: []kernel.Datum{{Addr: p.Addr()}}})
			}
		}
		t.Sets = append(t.Sets, s)
		chain.Rules = append(chain.Rules, kernel.Rule{Exprs: []kernel.Expr{
			kernel.Lookup{Fields: []kernel.Operand{f.daddr}, Set: f.set}, kernel.Verdict{Kind: kernel.Drop},
		}})
	}
	t.Chains = []kernel.Chain{chain}
	return t
}
