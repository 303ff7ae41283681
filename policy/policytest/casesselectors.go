package policytest

import (
	"strings"

	"github.com/twill-cni/twill/store"
)

// selectorRows are selectors and which of the three pods a, b, c, or namespaces x, y, z, they select, by number.
func selectorRows() []struct {
	name     string
	selector store.Selector
	selected string
} {
	return []struct {
		name     string
		selector store.Selector
		selected string
	}{
		{"empty", sel(), "123"},
		{"In with one value", sel(is("nth", "1")), "1"},
		{"In with two values", sel(is("nth", "1", "3")), "13"},
		{"In with a value that nobody has", sel(is("nth", "4")), ""},
		{"In with an absent key", sel(is("nothing", "1")), ""},
		{"In where one has no such key", sel(is("tier", "front", "back")), "12"},
		{"In with the empty value", sel(is("flag", "")), "2"},
		{"NotIn with one value", sel(isNot("nth", "1")), "23"},
		{"NotIn with two values", sel(isNot("nth", "1", "3")), "2"},
		{"NotIn with all values", sel(isNot("nth", "1", "2", "3")), ""},
		{"NotIn with an absent key", sel(isNot("nothing", "1")), "123"},
		{"NotIn where one has no such key", sel(isNot("tier", "front")), "23"},
		{"NotIn with the empty value", sel(isNot("flag", "")), "13"},
		{"Exists", sel(has("tier")), "12"},
		{"Exists with an empty value", sel(has("flag")), "12"},
		{"Exists with an absent key", sel(has("nothing")), ""},
		{"DoesNotExist", sel(hasNot("tier")), "3"},
		{"DoesNotExist with an absent key", sel(hasNot("nothing")), "123"},
		{"DoesNotExist with a key that all have", sel(hasNot("nth")), ""},
		{"In and NotIn", sel(is("nth", "1", "2"), isNot("tier", "back")), "1"},
		{"NotIn and Exists", sel(isNot("tier", "front"), has("tier")), "2"},
		{"Exists and DoesNotExist", sel(has("nth"), hasNot("flag")), "3"},
		{"all four", sel(is("nth", "1", "2", "3"), isNot("flag", "on"), has("tier"), hasNot("nothing")), "2"},
	}
}

// selectorCases puts each selector wherever a policy has one.
func selectorCases() []Case {
	var cases []Case
	for _, row := range selectorRows() {
		s, number := row.selector, strings.NewReplacer("1", "a", "2", "b", "3", "c")
		pods, namespaces := group(number.Replace(row.selected)), group(strings.NewReplacer("1", "x", "2", "y", "3", "z").Replace(row.selected))
		cases = append(cases,
			Case{Name: "pods of ingress: " + row.name, Policies: list(ingress("x", "subject", s)),
				expect: []expectation{shut("*/*", "x/"+pods)}},
			Case{Name: "pods of egress: " + row.name, Policies: list(egress("x", "subject", s)),
				expect: []expectation{shut("x/"+pods, "*/*")}},
			Case{Name: "peers of ingress by pods: " + row.name, Policies: list(ingress("x", "peer", sel(), rule(peers(podsOf(s))))),
				expect: []expectation{shut("*/*", "x/*"), open("x/"+pods, "x/*")}},
			Case{Name: "peers of egress by pods: " + row.name, Policies: list(egress("x", "peer", sel(), rule(peers(podsOf(s))))),
				expect: []expectation{shut("x/*", "*/*"), open("x/*", "x/"+pods)}},
			Case{Name: "peers of ingress by namespaces: " + row.name, Policies: list(ingress("y", "peer", sel(), rule(peers(namespacesOf(s))))),
				expect: []expectation{shut("*/*", "y/*"), open(namespaces+"/*", "y/*")}},
			Case{Name: "peers of egress by namespaces: " + row.name, Policies: list(egress("y", "peer", sel(), rule(peers(namespacesOf(s))))),
				expect: []expectation{shut("y/*", "*/*"), open("y/*", namespaces+"/*")}},
			Case{Name: "subjects of Admin by namespaces: " + row.name, ClusterPolicies: denyAll(store.TierAdmin, s, sel(), sel()),
				expect: []expectation{shut("*/*", namespaces+"/*")}},
			Case{Name: "subjects of Baseline by pods: " + row.name, ClusterPolicies: denyAll(store.TierBaseline, sel(), s, sel()),
				expect: []expectation{shut("*/*", "*/"+pods)}},
			Case{Name: "peers of Admin by namespaces: " + row.name, ClusterPolicies: denyAll(store.TierAdmin, sel(), sel(), s),
				expect: []expectation{shut(namespaces+"/*", "*/*")}})
	}
	return ofKind("selectors", cases)
}

// denyAll denies ingress of some pods from some namespaces.
func denyAll(tier store.PolicyTier, namespaces, pods, from store.Selector) []*store.ClusterNetworkPolicy {
	p := clusterPolicy("deny", tier, 5, namespaces, pods)
	p.Ingress = []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: peers(namespacesOf(from))}}
	return clusterList(p)
}

// group returns a pattern for one of the letters; without letters, one that nothing matches.
func group(letters string) string {
	if letters == "" {
		return "nobody"
	}
	return "[" + letters + "]"
}
