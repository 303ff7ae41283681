package policytest

// blockRow is address blocks of peers, and the pods that are in them.
type blockRow struct {
	name   string
	v4, v6 []blockText
	want   []string
}

type blockText struct {
	block  string
	except []string
}

func blocks(text string, except ...string) []blockText { return []blockText{{text, except}} }

func blockRows() []blockRow {
	return []blockRow{
		{"everything", blocks("0.0.0.0/0"), blocks("::/0"), []string{"*/*"}},
		{"one address", blocks("10.70.2.18/32"), blocks("fd70:0:0:2::12/128"), []string{"y/b"}},
		{"a node's subnet", blocks("10.70.2.0/24"), blocks("fd70:0:0:2::/64"), []string{"*/b"}},
		{"the subnets of two nodes", blocks("10.70.2.0/23"), blocks("fd70:0:0:2::/63"), []string{"*/[bc]"}},
		{"all of the cluster", blocks("10.70.0.0/22"), blocks("fd70::/62"), []string{"*/*"}},
		{"the first of a pair of addresses", blocks("10.70.2.16/31"), blocks("fd70:0:0:2::10/127"), []string{"x/b"}},
		{"a pair of addresses", blocks("10.70.2.18/31"), blocks("fd70:0:0:2::12/127"), []string{"[yz]/b"}},
		{"a block that ends before the first", blocks("10.70.2.0/28"), blocks("fd70:0:0:2::/124"), nil},
		{"outside of the cluster", blocks("192.0.2.0/24"), blocks("2001:db8::/32"), nil},
		{"everything except one node", blocks("0.0.0.0/0", "10.70.2.0/24"), blocks("::/0", "fd70:0:0:2::/64"), []string{"*/[ac]"}},
		{"a subnet except one address", blocks("10.70.2.0/24", "10.70.2.18/32"), blocks("fd70:0:0:2::/64", "fd70:0:0:2::12/128"), []string{"[xz]/b"}},
		{"a subnet except two addresses", blocks("10.70.2.0/24", "10.70.2.17/32", "10.70.2.19/32"),
			blocks("fd70:0:0:2::/64", "fd70:0:0:2::11/128", "fd70:0:0:2::13/128"), []string{"y/b"}},
		{"exceptions within each other", blocks("10.70.0.0/16", "10.70.2.0/23", "10.70.3.0/24"),
			blocks("fd70::/32", "fd70:0:0:2::/63", "fd70:0:0:3::/64"), []string{"*/a"}},
		{"an exception that is all of it", blocks("10.70.2.0/24", "10.70.2.0/25", "10.70.2.128/25"),
			blocks("fd70:0:0:2::/64", "fd70:0:0:2::/65", "fd70:0:0:2:8000::/65"), nil},
		{"an exception of one block that another has",
			[]blockText{{"10.70.0.0/16", []string{"10.70.2.0/24"}}, {"10.70.2.18/32", nil}},
			[]blockText{{"fd70::/32", []string{"fd70:0:0:2::/64"}}, {"fd70:0:0:2::12/128", nil}}, []string{"*/[ac]", "y/b"}},
		{"two blocks", []blockText{{"10.70.1.0/24", nil}, {"10.70.3.0/24", nil}},
			[]blockText{{"fd70:0:0:1::/64", nil}, {"fd70:0:0:3::/64", nil}}, []string{"*/[ac]"}},
	}
}

// blockCases puts each list of blocks into ingress and egress of x/*. A block of one family isolates the other one, and opens nothing of it.
func blockCases() []Case {
	var cases []Case
	for _, row := range blockRows() {
		into, outOf := []expectation{shut("*/*", "x/*")}, []expectation{shut("x/*", "*/*")}
		closedIn, closedOut := into[:1:1], outOf[:1:1]
		for _, pods := range row.want {
			into, outOf = append(into, open(pods, "x/*")), append(outOf, open("x/*", pods))
		}
		for _, family := range []struct {
			name         string
			own, other   Family
			descriptions []blockText
		}{{"IPv4", OnlyIPv4, OnlyIPv6, row.v4}, {"IPv6", OnlyIPv6, OnlyIPv4, row.v6}} {
			all := peers()
			for _, b := range family.descriptions {
				all = append(all, block(b.block, b.except...))
			}
			in, out := list(ingress("x", "blocks", sel(), rule(all))), list(egress("x", "blocks", sel(), rule(all)))
			cases = append(cases,
				Case{Name: "ingress from " + family.name + ": " + row.name, Policies: in, Family: family.own, expect: into},
				Case{Name: "egress to " + family.name + ": " + row.name, Policies: out, Family: family.own, expect: outOf},
				Case{Name: "ingress of the other family than " + family.name + ": " + row.name, Policies: in, Family: family.other, expect: closedIn},
				Case{Name: "egress of the other family than " + family.name + ": " + row.name, Policies: out, Family: family.other, expect: closedOut})
		}
	}
	return ofKind("blocks", cases)
}
