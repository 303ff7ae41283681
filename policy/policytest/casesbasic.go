package policytest

import "github.com/twill-cni/twill/store"

// basicCases are one policy, or none: whom it isolates, in which direction, and what an empty list means in contrast to none.
func basicCases() []Case {
	everybody := rule(nil)
	nobody := rule(peers(podsOf(sel(is("nth", "nobody")))))
	cases := []Case{
		{Name: "no policies"},
		{Name: "ingress of a namespace is closed", Policies: list(ingress("x", "deny", sel())),
			expect: []expectation{shut("*/*", "x/*")}},
		{Name: "egress of a namespace is closed", Policies: list(egress("x", "deny", sel())),
			expect: []expectation{shut("x/*", "*/*")}},
		{Name: "both directions of a namespace are closed", Policies: list(both("x", "deny", sel(), nil, nil)),
			expect: []expectation{shut("*/*", "x/*"), shut("x/*", "*/*")}},
		{Name: "ingress of one pod is closed", Policies: list(ingress("x", "deny", nth(1))),
			expect: []expectation{shut("*/*", "x/a")}},
		{Name: "egress of one pod is closed", Policies: list(egress("x", "deny", nth(1))),
			expect: []expectation{shut("x/a", "*/*")}},
		{Name: "both directions of one pod are closed", Policies: list(both("y", "deny", nth(2), nil, nil)),
			expect: []expectation{shut("*/*", "y/b"), shut("y/b", "*/*")}},
		{Name: "a policy that selects no pod", Policies: list(both("x", "deny", nth(4), nil, nil))},
		{Name: "a policy in a namespace without pods", Policies: list(both("w", "deny", sel(), nil, nil))},
		{Name: "ingress from everybody", Policies: list(ingress("x", "open", sel(), everybody))},
		{Name: "egress to everybody", Policies: list(egress("x", "open", sel(), everybody))},
		{Name: "both directions with everybody", Policies: list(both("x", "open", sel(), []store.PolicyRule{everybody}, []store.PolicyRule{everybody}))},
		{Name: "ingress from everybody, egress closed", Policies: list(both("x", "half", sel(), []store.PolicyRule{everybody}, nil)),
			expect: []expectation{shut("x/*", "*/*")}},
		{Name: "egress to everybody, ingress closed", Policies: list(both("x", "half", sel(), nil, []store.PolicyRule{everybody})),
			expect: []expectation{shut("*/*", "x/*")}},
		{Name: "ingress from pods that are not there", Policies: list(ingress("x", "nobody", sel(), nobody)),
			expect: []expectation{shut("*/*", "x/*")}},
		{Name: "egress to pods that are not there", Policies: list(egress("x", "nobody", sel(), nobody)),
			expect: []expectation{shut("x/*", "*/*")}},
		{Name: "a rule for nobody beside one for everybody", Policies: list(ingress("x", "open", sel(), nobody, everybody))},
		{Name: "all namespaces are closed", Policies: list(ingress("x", "deny", sel()), ingress("y", "deny", sel()), ingress("z", "deny", sel())),
			expect: []expectation{shut("*/*", "*/*")}},
		{Name: "a peer that is all pods of the namespace", Policies: list(ingress("x", "own", sel(), rule(peers(podsOf(sel()))))),
			expect: []expectation{shut("*/*", "x/*"), open("x/*", "x/*")}},
		{Name: "a peer that is all namespaces", Policies: list(ingress("x", "all", sel(), rule(peers(namespacesOf(sel())))))},
		{Name: "egress to all pods of the namespace", Policies: list(egress("x", "own", sel(), rule(peers(podsOf(sel()))))),
			expect: []expectation{shut("x/*", "*/*"), open("x/*", "x/*")}},
		{Name: "egress to all namespaces", Policies: list(egress("x", "all", sel(), rule(peers(namespacesOf(sel())))))},
		{Name: "one pod may reach only itself", Policies: list(both("x", "alone", nth(1), nil, nil)),
			expect: []expectation{shut("x/a", "*/*"), shut("*/*", "x/a"), open("x/a", "x/a")}},
	}
	return ofKind("basic", cases)
}

func ofKind(kind string, cases []Case) []Case {
	for i := range cases {
		cases[i].Kind = kind
	}
	return cases
}

// combinedCases are several policies: what each of them allows is allowed, at each end, and both ends have to allow it.
func combinedCases() []Case {
	deny := ingress("x", "deny", sel())
	from := func(name string, peer store.PolicyPeer, ports ...store.PolicyPort) *store.NetworkPolicy {
		return ingress("x", name, sel(), rule(peers(peer), ports...))
	}
	cases := []Case{
		{Name: "closed, and open to one namespace", Policies: list(deny, from("y", namespacesOf(nth(2)))),
			expect: []expectation{shut("*/*", "x/*"), open("y/*", "x/*")}},
		{Name: "open to two namespaces by two policies", Policies: list(from("y", namespacesOf(nth(2))), from("z", namespacesOf(nth(3)))),
			expect: []expectation{shut("*/*", "x/*"), open("[yz]/*", "x/*")}},
		{Name: "open to everybody by one of two", Policies: list(deny, ingress("x", "open", sel(), rule(nil)))},
		{Name: "one for all pods and one for one", Policies: list(deny, ingress("x", "a", nth(1), rule(nil, port(store.TCP, 80)))),
			expect: []expectation{shut("*/*", "x/*"), open("*/*", "x/a", tcp80)}},
		{Name: "peers of one do not get ports of the other",
			Policies: list(from("y", namespacesOf(nth(2)), port(store.TCP, 80)), from("z", namespacesOf(nth(3)), port(store.TCP, 81))),
			expect:   []expectation{shut("*/*", "x/*"), open("y/*", "x/*", tcp80), open("z/*", "x/*", tcp81)}},
		{Name: "the same peer with ports of two policies",
			Policies: list(from("80", namespacesOf(nth(2)), port(store.TCP, 80)), from("81", namespacesOf(nth(2)), port(store.TCP, 81))),
			expect:   []expectation{shut("*/*", "x/*"), open("y/*", "x/*", tcp80, tcp81)}},
		{Name: "two rules of one policy",
			Policies: list(ingress("x", "two", sel(),
				rule(peers(namespacesOf(nth(2))), port(store.TCP, 80)), rule(peers(namespacesOf(nth(3))), port(store.UDP, 81)))),
			expect: []expectation{shut("*/*", "x/*"), open("y/*", "x/*", tcp80), open("z/*", "x/*", udp81)}},
		{Name: "rules that overlap",
			Policies: list(ingress("x", "two", sel(),
				rule(peers(namespacesOf(sel())), port(store.TCP, 80)), rule(peers(namespacesOf(nth(3)))))),
			expect: []expectation{shut("*/*", "x/*"), open("*/*", "x/*", tcp80), open("z/*", "x/*")}},
		{Name: "both ends allow",
			Policies: list(egress("x", "out", sel(), rule(peers(namespacesOf(nth(2))))), ingress("y", "in", sel(), rule(peers(namespacesOf(nth(1)))))),
			expect:   []expectation{shut("x/*", "*/*"), shut("*/*", "y/*"), open("x/*", "y/*")}},
		{Name: "only the client's end allows", Policies: list(egress("x", "out", sel(), rule(peers(namespacesOf(nth(2))))), ingress("y", "in", sel())),
			expect: []expectation{shut("x/*", "*/*"), shut("*/*", "y/*")}},
		{Name: "only the server's end allows", Policies: list(egress("x", "out", sel()), ingress("y", "in", sel(), rule(peers(namespacesOf(nth(1)))))),
			expect: []expectation{shut("x/*", "*/*"), shut("*/*", "y/*")}},
		{Name: "both ends allow, but different ports",
			Policies: list(egress("x", "out", sel(), rule(nil, port(store.TCP, 80))), ingress("y", "in", sel(), rule(nil, port(store.TCP, 81)))),
			expect:   []expectation{shut("*/*", "y/*"), open("*/*", "y/*", tcp81), shut("x/*", "*/*"), open("x/*", "[xz]/*", tcp80)}},
		{Name: "both ends allow, and one port in common",
			Policies: list(egress("x", "out", sel(), rule(nil, portRange(store.TCP, 80, 81))), ingress("y", "in", sel(), rule(nil, anyPort(store.UDP), port(store.TCP, 81)))),
			expect: []expectation{shut("*/*", "y/*"), open("*/*", "y/*", tcp81, udp80, udp81),
				shut("x/*", "*/*"), open("x/*", "[xz]/*", tcp80, tcp81), open("x/*", "y/*", tcp81)}},
		{Name: "both ends within one namespace", Policies: list(both("x", "one", sel(),
			[]store.PolicyRule{rule(peers(podsOf(nth(1))))}, []store.PolicyRule{rule(peers(podsOf(nth(2))))})),
			expect: []expectation{shut("*/*", "x/*"), shut("x/*", "*/*"), open("x/a", "x/b")}},
		{Name: "ingress by one policy and egress by another",
			Policies: list(ingress("x", "in", nth(1), rule(peers(podsOf(nth(2))))), egress("x", "out", nth(1), rule(peers(podsOf(nth(3)))))),
			expect:   []expectation{shut("*/*", "x/a"), open("x/b", "x/a"), shut("x/a", "*/*"), open("x/a", "x/c")}},
		{Name: "the same policy in two namespaces",
			Policies: list(ingress("x", "own", sel(), rule(peers(podsOf(sel())))), ingress("y", "own", sel(), rule(peers(podsOf(sel()))))),
			expect:   []expectation{shut("*/*", "[xy]/*"), open("x/*", "x/*"), open("y/*", "y/*")}},
		{Name: "different policies for pods of one namespace",
			Policies: list(ingress("x", "a", nth(1), rule(peers(podsOf(nth(2))))), ingress("x", "b", nth(2), rule(peers(podsOf(nth(3)))))),
			expect:   []expectation{shut("*/*", "x/[ab]"), open("x/b", "x/a"), open("x/c", "x/b")}},
	}
	return ofKind("combined", cases)
}

// peerCases are about and and or: selectors in one element of a list of peers, and in two.
func peerCases() []Case {
	in := func(all ...store.PolicyPeer) []*store.NetworkPolicy {
		return list(ingress("x", "peers", nth(1), rule(all)))
	}
	out := func(all ...store.PolicyPeer) []*store.NetworkPolicy {
		return list(egress("x", "peers", nth(1), rule(all)))
	}
	rows := []struct {
		name  string
		peers []store.PolicyPeer
		want  []string // the pods that are meant
	}{
		{"namespaces and pods in one element", peers(podsIn(nth(2), nth(2))), []string{"y/b"}},
		{"namespaces and pods in two elements", peers(namespacesOf(nth(2)), podsOf(nth(2))), []string{"y/*", "x/b"}},
		{"two elements with both", peers(podsIn(nth(2), nth(2)), podsIn(nth(3), nth(3))), []string{"y/b", "z/c"}},
		{"two namespaces and two pods in one element", peers(podsIn(nth(2, 3), nth(1, 3))), []string{"[yz]/[ac]"}},
		{"pods alone mean the own namespace", peers(podsOf(nth(2, 3))), []string{"x/[bc]"}},
		{"all namespaces and one pod", peers(podsIn(sel(), nth(3))), []string{"*/c"}},
		{"one namespace and all pods", peers(podsIn(nth(3), sel())), []string{"z/*"}},
		{"all namespaces and all pods", peers(podsIn(sel(), sel())), []string{"*/*"}},
		{"the own namespace by its labels", peers(namespacesOf(nth(1))), []string{"x/*"}},
		{"a namespace by its name", peers(namespacesOf(sel(is(store.NamespaceNameLabel, "y")))), []string{"y/*"}},
		{"namespaces by all names but one", peers(namespacesOf(sel(isNot(store.NamespaceNameLabel, "y")))), []string{"[xz]/*"}},
		{"a namespace that is not there", peers(podsIn(nth(7), sel())), nil},
		{"pods that are not there", peers(podsIn(sel(), nth(7))), nil},
		{"an element that means nobody beside one", peers(podsIn(nth(7), sel()), podsIn(nth(2), nth(1))), []string{"y/a"}},
		{"elements that overlap", peers(podsIn(nth(2), nth(1, 2)), podsIn(nth(2), nth(2, 3))), []string{"y/*"}},
		{"the same element twice", peers(podsIn(nth(2), nth(1)), podsIn(nth(2), nth(1))), []string{"y/a"}},
		{"requirements that exclude each other", peers(podsIn(sel(), sel(is("nth", "1"), is("nth", "2")))), nil},
		{"labels of the namespace are not those of its pods", peers(podsIn(sel(is("tier", "front")), sel(is("tier", "back")))), []string{"x/b"}},
		{"a block in another element", peers(block("10.70.2.18/32"), block("fd70:0:0:2::12/128"), podsIn(nth(3), nth(3))), []string{"y/b", "z/c"}},
	}
	var cases []Case
	for _, row := range rows {
		into, outOf := []expectation{shut("*/*", "x/a")}, []expectation{shut("x/a", "*/*")}
		for _, pods := range row.want {
			into, outOf = append(into, open(pods, "x/a")), append(outOf, open("x/a", pods))
		}
		cases = append(cases,
			Case{Name: "ingress: " + row.name, Policies: in(row.peers...), expect: into},
			Case{Name: "egress: " + row.name, Policies: out(row.peers...), expect: outOf})
	}
	return ofKind("peers", cases)
}
