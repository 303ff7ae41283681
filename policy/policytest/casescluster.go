package policytest

import (
	"slices"

	"github.com/twill-cni/twill/store"
)

// admin returns a policy of the tier Admin about ingress of x/*.
func admin(name string, priority int, rules ...store.ClusterPolicyRule) *store.ClusterNetworkPolicy {
	p := clusterPolicy(name, store.TierAdmin, priority, nth(1), sel())
	p.Ingress = rules
	return p
}

func baseline(name string, priority int, rules ...store.ClusterPolicyRule) *store.ClusterNetworkPolicy {
	p := admin(name, priority, rules...)
	p.Tier = store.TierBaseline
	return p
}

func does(action store.PolicyAction, peer store.PolicyPeer, ports ...store.PolicyPort) store.ClusterPolicyRule {
	return store.ClusterPolicyRule{Action: action, Peers: peers(peer), Ports: ports}
}

// clusterCases are about ClusterNetworkPolicies: order, what Pass leaves out, ports, and both ends.
func clusterCases() []Case {
	return ofKind("cluster", slices.Concat(orderCases(), passCases(), otherClusterCases()))
}

// orderCases are about the order of rules, of priorities, and of names.
func orderCases() []Case {
	const accept, deny = store.ActionAccept, store.ActionDeny
	everybody, y, z := namespacesOf(sel()), namespacesOf(nth(2)), namespacesOf(nth(3))
	closed := shut("*/*", "x/*")
	return []Case{
		{Name: "the first rule that matches counts: Accept", ClusterPolicies: clusterList(admin("p", 1, does(accept, y), does(deny, everybody))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "the first rule that matches counts: Deny", ClusterPolicies: clusterList(admin("p", 1, does(deny, y), does(accept, everybody))),
			expect: []expectation{shut("y/*", "x/*")}},
		{Name: "the first rule that matches counts: Deny for all", ClusterPolicies: clusterList(admin("p", 1, does(deny, everybody), does(accept, y))),
			expect: []expectation{closed}},
		{Name: "the smaller priority comes first", ClusterPolicies: clusterList(admin("a", 20, does(deny, everybody)), admin("b", 10, does(accept, y))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "the greater priority comes last", ClusterPolicies: clusterList(admin("a", 20, does(accept, y)), admin("b", 10, does(deny, everybody))),
			expect: []expectation{closed}},
		{Name: "priorities are numbers", ClusterPolicies: clusterList(admin("a", 100, does(accept, everybody)), admin("b", 9, does(deny, y))),
			expect: []expectation{shut("y/*", "x/*")}},
		{Name: "priority 0 comes before 1000", ClusterPolicies: clusterList(admin("a", 1000, does(deny, everybody)), admin("b", 0, does(accept, z))),
			expect: []expectation{closed, open("z/*", "x/*")}},
		{Name: "of equal priorities the smaller name: Accept", ClusterPolicies: clusterList(admin("b", 5, does(deny, everybody)), admin("a", 5, does(accept, y))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "of equal priorities the smaller name: Deny", ClusterPolicies: clusterList(admin("b", 5, does(accept, y)), admin("a", 5, does(deny, everybody))),
			expect: []expectation{closed}},
		{Name: "a tie of Baseline", ClusterPolicies: clusterList(baseline("b", 5, does(deny, everybody)), baseline("a", 5, does(accept, y))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "Admin comes before Baseline whatever the priorities",
			ClusterPolicies: clusterList(baseline("a", 0, does(deny, everybody)), admin("b", 1000, does(accept, y))),
			expect:          []expectation{closed, open("y/*", "x/*")}},
	}
}

// passCases are about what Pass leaves out, and what NetworkPolicies keep out of Baseline.
func passCases() []Case {
	const accept, deny, pass = store.ActionAccept, store.ActionDeny, store.ActionPass
	everybody, y := namespacesOf(sel()), namespacesOf(nth(2))
	closed := shut("*/*", "x/*")
	return []Case{
		{Name: "Pass leaves out the rest of the policy", ClusterPolicies: clusterList(admin("p", 1, does(pass, y), does(deny, everybody))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "Pass leaves out the rest of the tier", ClusterPolicies: clusterList(admin("a", 1, does(pass, y)), admin("b", 2, does(deny, everybody))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "Pass leads to a NetworkPolicy", ClusterPolicies: clusterList(admin("p", 1, does(pass, y), does(accept, everybody))),
			Policies: list(ingress("x", "deny", sel())),
			expect:   []expectation{shut("y/*", "x/*")}},
		{Name: "Pass leads to Baseline",
			ClusterPolicies: clusterList(admin("p", 1, does(pass, y), does(accept, everybody)), baseline("p2", 1, does(deny, everybody))),
			expect:          []expectation{shut("y/*", "x/*")}},
		{Name: "Pass of Baseline leaves out the rest of it", ClusterPolicies: clusterList(baseline("a", 1, does(pass, y)), baseline("b", 2, does(deny, everybody))),
			expect: []expectation{closed, open("y/*", "x/*")}},
		{Name: "a NetworkPolicy keeps Baseline out even where it allows nothing", Policies: list(ingress("x", "some", sel(), rule(peers(namespacesOf(nth(3)))))),
			ClusterPolicies: clusterList(baseline("p", 1, does(accept, everybody))),
			expect:          []expectation{closed, open("z/*", "x/*")}},
		{Name: "a NetworkPolicy of egress does not keep Baseline out of ingress", Policies: list(egress("x", "out", sel(), rule(nil))),
			ClusterPolicies: clusterList(baseline("p", 1, does(deny, everybody))),
			expect:          []expectation{closed}},
	}
}

func otherClusterCases() []Case {
	const accept, deny, pass = store.ActionAccept, store.ActionDeny, store.ActionPass
	everybody, y := namespacesOf(sel()), namespacesOf(nth(2))
	closed := shut("*/*", "x/*")
	none := clusterPolicy("egress", store.TierAdmin, 1, nth(1), sel())
	none.Egress = []store.ClusterPolicyRule{does(deny, y)}
	networks := clusterPolicy("networks", store.TierBaseline, 1, nth(1), sel())
	networks.Egress = []store.ClusterPolicyRule{does(pass, everybody), {Action: deny, Peers: peers(block("0.0.0.0/0"), block("::/0"))}}
	strict := clusterPolicy("networks", store.TierBaseline, 1, nth(1), sel())
	strict.Egress = []store.ClusterPolicyRule{does(accept, y), {Action: deny, Peers: peers(block("0.0.0.0/0"), block("::/0"))}}
	return []Case{
		{Name: "Accept for one port", ClusterPolicies: clusterList(admin("p", 1, does(accept, everybody, port(store.TCP, 80)), does(deny, everybody))),
			expect: []expectation{closed, open("*/*", "x/*", tcp80)}},
		{Name: "Deny for one port", ClusterPolicies: clusterList(admin("p", 1, does(deny, everybody, port(store.TCP, 80)))),
			expect: []expectation{shut("*/*", "x/*", tcp80)}},
		{Name: "Deny for a name that differs", ClusterPolicies: clusterList(admin("p", 1, does(deny, everybody, named(0, "web")))),
			expect: []expectation{shut("*/*", "x/a", tcp80), shut("*/*", "x/b", tcp81), shut("*/*", "x/c", udp80)}},
		{Name: "Deny for all of TCP leaves ICMP open", ClusterPolicies: clusterList(admin("p", 1, does(deny, y, portRange(store.TCP, 1, 65535)))),
			expect: []expectation{shut("y/*", "x/*", tcp80, tcp81)}},
		{Name: "Pass for one port", ClusterPolicies: clusterList(admin("p", 1, does(pass, everybody, port(store.UDP, 81)), does(deny, everybody))),
			expect: []expectation{closed, open("*/*", "x/*", udp81)}},
		{Name: "Accept of ingress does not open the client's egress", Policies: list(egress("y", "deny", sel())),
			ClusterPolicies: clusterList(admin("p", 1, does(accept, everybody))),
			expect:          []expectation{shut("y/*", "*/*")}},
		{Name: "Accept of ingress is above a NetworkPolicy", Policies: list(ingress("x", "deny", sel())),
			ClusterPolicies: clusterList(admin("p", 1, does(accept, y))),
			expect:          []expectation{closed, open("y/*", "x/*")}},
		{Name: "a policy with egress rules does not touch ingress", ClusterPolicies: clusterList(none),
			expect: []expectation{shut("x/*", "y/*")}},
		{Name: "a policy without rules", ClusterPolicies: clusterList(admin("p", 1))},
		{Name: "all pods are passed, all addresses denied", ClusterPolicies: clusterList(networks)},
		{Name: "addresses are those of pods, too", ClusterPolicies: clusterList(strict),
			expect: []expectation{shut("x/*", "*/*"), open("x/*", "y/*")}},
		{Name: "namespaces and pods of a peer", ClusterPolicies: clusterList(admin("p", 1, does(accept, podsIn(nth(2), nth(2))), does(deny, everybody))),
			expect: []expectation{closed, open("y/b", "x/*")}},
		{Name: "a peer that nobody is", ClusterPolicies: clusterList(admin("p", 1, does(deny, namespacesOf(nth(7)))))},
		{Name: "Deny at one end, Accept at the other", ClusterPolicies: clusterList(none, func() *store.ClusterNetworkPolicy {
			p := clusterPolicy("accept", store.TierAdmin, 0, nth(2), sel())
			p.Ingress = []store.ClusterPolicyRule{does(accept, everybody)}
			return p
		}()), expect: []expectation{shut("x/*", "y/*")}},
	}
}
