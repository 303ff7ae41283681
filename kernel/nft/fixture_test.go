package nft

import "github.com/twill-cni/twill/kernel"

// everything returns a table that uses every word of the vocabulary.
func everything() kernel.Table {
	type d = kernel.Datum
	accept := func(exprs ...kernel.Expr) kernel.Rule {
		return kernel.Rule{Exprs: append(exprs, kernel.Verdict{Kind: kernel.Accept})}
	}
	cmp := func(f kernel.Field, v d) kernel.Expr { return kernel.Compare{Field: f, Value: v} }
	return kernel.Table{
		Family: kernel.FamilyInet,
		Name:   "twill-test",
		Sets: []kernel.Set{
			{Name: "net4", Key: []kernel.Type{kernel.TypeIPv4Addr}, Interval: true, Comment: "adjacent and single", Elements: []kernel.Element{
				elem(prefix("10.0.0.0/24")), elem(prefix("10.0.1.0/24")), elem(addr("10.9.9.9")),
				{Key: []d{addr("10.1.0.1")}, KeyEnd: []d{addr("10.1.0.9")}, Comment: "a range"},
			}},
			{Name: "net6", Key: []kernel.Type{kernel.TypeIPv6Addr}, Interval: true, Elements: []kernel.Element{
				elem(prefix("fd00::/64")), elem(prefix("fd00:0:0:1::/64")), elem(prefix("ff00::/8"))}},
			{Name: "pairs", Key: []kernel.Type{kernel.TypeIPv4Addr, kernel.TypeInetProto, kernel.TypeInetService}, Interval: true, Elements: []kernel.Element{
				{Key: []d{prefix("10.2.0.0/16"), number(6), number(80)}, KeyEnd: []d{prefix("10.2.0.0/16"), number(6), number(90)}},
				elem(addr("10.3.0.1"), number(17), number(53)),
			}},
			{Name: "ports4", Key: []kernel.Type{kernel.TypeIPv4Addr, kernel.TypeInetProto, kernel.TypeInetService},
				Value: []kernel.Type{kernel.TypeIPv4Addr, kernel.TypeInetService}, Elements: []kernel.Element{
					{Key: []d{addr("192.0.2.1"), number(6), number(8080)}, Value: []d{addr("10.0.0.5"), number(80)}, Comment: "pod web"},
					{Key: []d{addr("192.0.2.1"), number(17), number(53)}, Value: []d{addr("10.0.0.6"), number(5353)}},
				}},
			{Name: "ports6", Key: []kernel.Type{kernel.TypeInetProto, kernel.TypeInetService},
				Value: []kernel.Type{kernel.TypeIPv6Addr, kernel.TypeInetService}, Elements: []kernel.Element{
					{Key: []d{number(6), number(8080)}, Value: []d{addr("fd00::5"), number(80)}}}},
			{Name: "dispatch", Key: []kernel.Type{kernel.TypeIfname}, Value: []kernel.Type{kernel.TypeVerdict}, Elements: []kernel.Element{
				{Key: []d{ifname("eth0")}, Value: []d{{Verdict: &kernel.Verdict{Kind: kernel.Jump, Chain: "sub"}}}},
				{Key: []d{ifname("eth1")}, Value: []d{{Verdict: &kernel.Verdict{Kind: kernel.Drop}}}},
			}},
			{Name: "marks", Key: []kernel.Type{kernel.TypeMark}, Size: 16, Elements: []kernel.Element{elem(number(0x4000))}},
			{Name: "others", Key: []kernel.Type{kernel.TypeIPv4Addr}, Foreign: true},
		},
		Chains: []kernel.Chain{
			{Name: "sub", Comment: "regular", Rules: []kernel.Rule{{Exprs: []kernel.Expr{kernel.Counter{}, kernel.Verdict{Kind: kernel.Return}}, Comment: "back"}}},
			{Name: "pre", Hook: &kernel.Hook{Type: "nat", Hook: "prerouting", Priority: -100}, Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{cmp(kernel.FieldFIBDaddrType, number(2)),
					kernel.DNAT{Fields: []kernel.Operand{kernel.FieldIPDaddr, kernel.FieldL4Proto, kernel.FieldDport}, Map: "ports4"}}, Comment: "host ports"},
				{Exprs: []kernel.Expr{kernel.DNAT{Fields: []kernel.Operand{kernel.FieldL4Proto, kernel.FieldDport}, Map: "ports6", V6: true}}},
			}},
			{Name: "filter", Hook: &kernel.Hook{Type: "filter", Hook: "forward", Drop: true}, Comment: "base", Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldIIFName}, Map: "dispatch"}}},
				accept(cmp(kernel.FieldIPSaddr, prefix("10.0.0.0/20")), kernel.Compare{Field: kernel.FieldIPDaddr, Not: true, Value: prefix("10.0.0.0/8")}),
				accept(cmp(kernel.FieldIP6Saddr, addr("fd00::1")), kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIP6Daddr}, Set: "net6", Not: true}),
				accept(kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPDaddr, kernel.FieldL4Proto, kernel.FieldDport}, Set: "pairs"}),
				accept(kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPSaddr}, Set: "others"}),
				accept(kernel.Compare{Field: kernel.FieldCTStatus, Mask: 0x20, Value: number(0x20)}, cmp(kernel.FieldCTDirection, number(0))),
				accept(kernel.Compare{Field: kernel.FieldCTStatus, Mask: 0x20, Not: true, Value: number(0x20)}, cmp(kernel.FieldCTDirection, number(1))),
				accept(kernel.Compare{Field: kernel.FieldCTState, Mask: 6, Not: true, Value: number(0)}),
				accept(kernel.Compare{Field: kernel.FieldMark, Mask: 0xff00, Value: number(0x4000)}, cmp(kernel.FieldCTMark, number(7))),
				accept(kernel.Lookup{Fields: []kernel.Operand{kernel.FieldMark}, Set: "marks"}),
				accept(cmp(kernel.FieldNFProto, number(10)), cmp(kernel.FieldL4Proto, number(6)), cmp(kernel.FieldSport, number(80)), cmp(kernel.FieldDport, number(443))),
				accept(cmp(kernel.FieldICMPv6Type, number(135))),
				{Exprs: []kernel.Expr{cmp(kernel.FieldNFProto, number(10)), cmp(kernel.FieldL4Proto, number(58)), cmp(kernel.FieldICMPv6Type, number(143)),
					kernel.Limit{Rate: 100, Burst: 200}, kernel.Log{Group: 84, Prefix: "refused: a", Length: 128}, kernel.Limit{Rate: 1, Burst: 6}, kernel.Log{}}},
				{Exprs: []kernel.Expr{cmp(kernel.FieldIIFName, ifname("eth0")), kernel.Compare{Field: kernel.FieldOIFName, Not: true, Value: ifname("cni0")},
					kernel.SetMark{Mask: 0xff, Value: 0x12}, kernel.SetMark{Mask: 0xffffffff, Value: 0x34}, kernel.Verdict{Kind: kernel.Goto, Chain: "sub"}}},
			}},
			{Name: "post", Hook: &kernel.Hook{Type: "nat", Hook: "postrouting", Priority: 100}, Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPSaddr}, Set: "net4"}, kernel.Counter{}, kernel.Masquerade{FullyRandom: true}}, Comment: "leaves"},
				{Exprs: []kernel.Expr{kernel.Masquerade{}}},
			}},
		},
	}
}
