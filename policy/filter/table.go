package filter

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
)

// table returns the table without what its Bulk sets hold.
func (f *Filter) table() kernel.Table {
	t := gate.Closed(f.config)
	elements := map[string][]kernel.Element{}
	f.localElements(elements)
	for _, n := range f.networks {
		set := gate.FamilyOf(n.first).Networks
		elements[set] = append(elements[set], kernel.Element{
			Key: []kernel.Datum{{Addr: n.first}}, KeyEnd: []kernel.Datum{{Addr: n.last}}, Value: []kernel.Datum{{Number: n.class.number}},
		})
	}
	for _, text := range slices.Sorted(maps.Keys(f.ports)) {
		elements[gate.SetRanges] = append(elements[gate.SetRanges], f.ports[text].ranges...)
	}
	for i := range t.Sets {
		if more := elements[t.Sets[i].Name]; more != nil {
			t.Sets[i].Elements = more
		}
	}
	for _, s := range slices.SortedFunc(maps.Values(f.subjects), func(a, b *subject) int {
		return cmp.Or(cmp.Compare(a.direction, b.direction), strings.Compare(a.text, b.text))
	}) {
		t.Chains = append(t.Chains, s.render())
	}
	return t
}

// localElements are what opens the addresses of this node.
func (f *Filter) localElements(elements map[string][]kernel.Element) {
	for _, addr := range slices.SortedFunc(maps.Keys(f.opened), netip.Addr.Compare) {
		l, v := f.opened[addr], gate.FamilyOf(addr)
		one := kernel.Datum{Addr: addr}
		for _, d := range [...]policy.Direction{policy.Egress, policy.Ingress} {
			set, chain := v.Egress, gate.ChainOpen
			if d == policy.Ingress {
				set = v.Ingress
			}
			if s := l.subjects[d]; s != nil {
				chain = s.name
			}
			elements[set] = append(elements[set], kernel.Element{
				Key: []kernel.Datum{one}, Value: []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: chain}}},
				Comment: comment(l.key.Name.String()),
			})
		}
		elements[v.Self] = append(elements[v.Self], kernel.Element{Key: []kernel.Datum{one, one}})
	}
}

// comment cuts a text to what nft shows.
func comment(text string) string {
	const most = 127
	if len(text) > most {
		return text[:most]
	}
	return text
}
