package policytest

import (
	"slices"

	"github.com/twill-cni/twill/store"
)

// portRow is a list of ports of a rule, and what it opens on each pod a, b and c.
type portRow struct {
	name    string
	ports   []store.PolicyPort
	a, b, c []Service // nil: nothing
}

func all(s ...Service) (a, b, c []Service) { return s, s, s }

func portRows() []portRow {
	same := func(name string, list []store.PolicyPort, opened ...Service) portRow {
		a, b, c := all(opened...)
		return portRow{name: name, ports: list, a: a, b: b, c: c}
	}
	tcp, udp, sctp := store.TCP, store.UDP, store.SCTP
	every := Services()
	return []portRow{
		same("no ports: everything, ICMP too", nil, every...),
		same("one TCP port", ports(port(tcp, 80)), tcp80),
		same("the other TCP port", ports(port(tcp, 81)), tcp81),
		same("one UDP port", ports(port(udp, 80)), udp80),
		same("one SCTP port", ports(port(sctp, 81)), sctp81),
		same("a port that nobody asks for", ports(port(tcp, 82))),
		same("two ports of one protocol", ports(port(tcp, 80), port(tcp, 81)), tcp80, tcp81),
		same("one number of two protocols", ports(port(tcp, 80), port(udp, 80)), tcp80, udp80),
		same("different numbers of two protocols", ports(port(tcp, 80), port(udp, 81)), tcp80, udp81),
		same("one number of all three protocols", ports(port(tcp, 81), port(udp, 81), port(sctp, 81)), tcp81, udp81, sctp81),
		same("the same port twice", ports(port(tcp, 80), port(tcp, 80)), tcp80),
		same("all of TCP", ports(anyPort(tcp)), tcp80, tcp81),
		same("all of UDP", ports(anyPort(udp)), udp80, udp81),
		same("all of SCTP", ports(anyPort(sctp)), sctp80, sctp81),
		same("all of each protocol, but not ICMP", ports(anyPort(tcp), anyPort(udp), anyPort(sctp)), tcp80, tcp81, udp80, udp81, sctp80, sctp81),
		same("all of TCP and a port of UDP", ports(anyPort(tcp), port(udp, 80)), tcp80, tcp81, udp80),
		same("a range with both", ports(portRange(tcp, 80, 81)), tcp80, tcp81),
		same("a range that ends at 80", ports(portRange(tcp, 1, 80)), tcp80),
		same("a range that begins at 81", ports(portRange(tcp, 81, 65535)), tcp81),
		same("a range of one port", ports(portRange(tcp, 80, 80)), tcp80),
		same("a range below", ports(portRange(tcp, 1, 79))),
		same("a range above", ports(portRange(tcp, 82, 65535))),
		same("the whole range", ports(portRange(tcp, 1, 65535)), tcp80, tcp81),
		same("ranges that overlap", ports(portRange(udp, 79, 80), portRange(udp, 80, 81)), udp80, udp81),
		same("a range of SCTP", ports(portRange(sctp, 79, 80)), sctp80),
		same("ranges of two protocols", ports(portRange(tcp, 70, 80), portRange(udp, 81, 90)), tcp80, udp81),
		same("a port inside of a range", ports(portRange(tcp, 80, 90), port(tcp, 81)), tcp80, tcp81),
		same("a name that all have", ports(named(tcp, "tcp81")), tcp81),
		same("names of two protocols", ports(named(tcp, "tcp80"), named(udp, "udp81")), tcp80, udp81),
		same("a name of SCTP", ports(named(sctp, "sctp80")), sctp80),
		same("a name with another protocol", ports(named(udp, "tcp80"))),
		same("a name that nobody has", ports(named(tcp, "nothing"))),
		same("a name and a number", ports(named(tcp, "tcp80"), port(tcp, 81)), tcp80, tcp81),
		same("a name and a name that nobody has", ports(named(tcp, "tcp80"), named(tcp, "nothing")), tcp80),
		{name: "a name with different numbers", ports: ports(named(tcp, "web")), a: []Service{tcp80}, b: []Service{tcp81}},
		{name: "a name that is UDP on one pod", ports: ports(named(udp, "web")), c: []Service{udp80}},
		{name: "a name of both protocols", ports: ports(named(tcp, "web"), named(udp, "web")), a: []Service{tcp80}, b: []Service{tcp81}, c: []Service{udp80}},
		{name: "a name with different numbers and a number", ports: ports(named(tcp, "web"), port(tcp, 80)),
			a: []Service{tcp80}, b: []Service{tcp80, tcp81}, c: []Service{tcp80}},
		{name: "a name that one pod has for two ports", ports: ports(named(tcp, "twin")), a: []Service{tcp81}},
		same("a name of any protocol that all have", ports(named(0, "udp81")), udp81),
		{name: "a name of any protocol", ports: ports(named(0, "web")), a: []Service{tcp80}, b: []Service{tcp81}, c: []Service{udp80}},
		{name: "a name of any protocol with two ports", ports: ports(named(0, "twin")), a: []Service{tcp81, udp81}},
	}
}

// portCases puts each list of ports into rules of both kinds and both directions: x/* are isolated, or denied all.
func portCases() []Case {
	var cases []Case
	for _, row := range portRows() {
		everybody := rule(nil, row.ports...)
		into := []expectation{shut("*/*", "x/*")}
		outOf := []expectation{shut("x/*", "*/*")}
		for i, opened := range [][]Service{row.a, row.b, row.c} {
			if len(opened) > 0 {
				into = append(into, open("*/*", "x/"+podNames[i], opened...))
				outOf = append(outOf, open("x/*", "*/"+podNames[i], opened...))
			}
		}
		if !slices.ContainsFunc(row.ports, func(p store.PolicyPort) bool { return p.Protocol == 0 }) {
			cases = append(cases,
				Case{Name: "ingress of NetworkPolicy: " + row.name, Policies: list(ingress("x", "ports", sel(), everybody)), expect: into},
				Case{Name: "egress of NetworkPolicy: " + row.name, Policies: list(egress("x", "ports", sel(), everybody)), expect: outOf})
		}
		if slices.ContainsFunc(row.ports, func(p store.PolicyPort) bool { return !ofClusterPolicies(p) }) {
			continue
		}
		anybody := peers(namespacesOf(sel()))
		accept := store.ClusterPolicyRule{Action: store.ActionAccept, Peers: anybody, Ports: row.ports}
		deny := store.ClusterPolicyRule{Action: store.ActionDeny, Peers: anybody}
		in := clusterPolicy("ports", store.TierAdmin, 1, nth(1), sel())
		in.Ingress = []store.ClusterPolicyRule{accept, deny}
		out := clusterPolicy("ports", store.TierBaseline, 1, nth(1), sel())
		out.Egress = []store.ClusterPolicyRule{accept, deny}
		cases = append(cases,
			Case{Name: "ingress of Admin: " + row.name, ClusterPolicies: clusterList(in), expect: into},
			Case{Name: "egress of Baseline: " + row.name, ClusterPolicies: clusterList(out), expect: outOf})
	}
	return ofKind("ports", cases)
}

// ofClusterPolicies reports whether a ClusterNetworkPolicy can have such a port: its names come without a protocol, its protocols with ports, and its
// ranges have more than one.
func ofClusterPolicies(p store.PolicyPort) bool {
	if p.Name != "" {
		return p.Protocol == 0
	}
	return p.Port != 0 && p.Port != p.EndPort
}

var podNames = []string{"a", "b", "c"}

func list(policies ...*store.NetworkPolicy) []*store.NetworkPolicy { return policies }

func clusterList(policies ...*store.ClusterNetworkPolicy) []*store.ClusterNetworkPolicy {
	return policies
}

// nth selects namespaces x, y, z, or pods a, b, c by their numbers.
func nth(numbers ...int) store.Selector {
	values := make([]string, 0, len(numbers))
	for _, n := range numbers {
		values = append(values, string(rune('0'+n)))
	}
	return sel(is("nth", values...))
}

func clusterPolicy(name string, tier store.PolicyTier, priority int, namespaces, pods store.Selector) *store.ClusterNetworkPolicy {
	return &store.ClusterNetworkPolicy{Name: name, Tier: tier, Priority: priority, Namespaces: namespaces, Pods: pods}
}
