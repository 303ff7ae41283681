package policytest

import (
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/store"
)

// Namespaces returns the model's namespaces: x, y and z, which have labels like those of pods a, b and c.
func Namespaces() []*store.Namespace {
	var all []*store.Namespace
	for i, name := range []string{"x", "y", "z"} {
		labels := modelLabels(i)
		labels[store.NamespaceNameLabel] = name
		all = append(all, &store.Namespace{Name: name, Labels: labels})
	}
	return all
}

// Pods returns the model's nine pods: a, b and c in each of x, y and z. All a's are on node1, b's on node2 and c's on node3, of whose
// subnets 10.70.1.0/24 and fd70:0:0:1::/64 (and so on) they have addresses that end in .17 or ::11 in x, .18 or ::12 in y, and .19 or ::13 in z.
//
// Each serves ports 80 and 81 of all three protocols, under names such as tcp80. The port named web differs: it is TCP 80 of a's, TCP 81 of b's and
// UDP 80 of c's. Of two ports that a's have under the name twin, one is TCP 81 and one is UDP 81.
func Pods() []*store.Pod {
	var all []*store.Pod
	for n, namespace := range []string{"x", "y", "z"} {
		for i, name := range []string{"a", "b", "c"} {
			all = append(all, &store.Pod{
				Name: store.ObjectName{Namespace: namespace, Name: name},
				Node: fmt.Sprintf("node%d", i+1),
				Addrs: []netip.Addr{
					netip.AddrFrom4([4]byte{10, 70, byte(i + 1), byte(17 + n)}),
					netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x70, 7: byte(i + 1), 15: byte(17 + n)}),
				},
				Labels: modelLabels(i),
				Ports:  modelPorts(i),
				Ready:  true,
			})
		}
	}
	return all
}

// modelLabels: nth is 1, 2, 3; tier is front, back, absent; flag is on, empty, absent.
func modelLabels(i int) map[string]string {
	labels := map[string]string{"nth": fmt.Sprint(i + 1)}
	if i < 2 {
		labels["tier"] = []string{"front", "back"}[i]
		labels["flag"] = []string{"on", ""}[i]
	}
	return labels
}

func modelPorts(i int) []store.PodPort {
	ports := []store.PodPort{
		{Name: "tcp80", Protocol: store.TCP, Port: 80}, {Name: "tcp81", Protocol: store.TCP, Port: 81},
		{Name: "udp80", Protocol: store.UDP, Port: 80}, {Name: "udp81", Protocol: store.UDP, Port: 81},
		{Name: "sctp80", Protocol: store.SCTP, Port: 80}, {Name: "sctp81", Protocol: store.SCTP, Port: 81},
	}
	web := []store.PodPort{{Name: "web", Protocol: store.TCP, Port: 80}, {Name: "web", Protocol: store.TCP, Port: 81}, {Name: "web", Protocol: store.UDP, Port: 80}}
	ports = append(ports, web[i])
	if i == 0 {
		ports = append(ports, store.PodPort{Name: "twin", Protocol: store.TCP, Port: 81}, store.PodPort{Name: "twin", Protocol: store.UDP, Port: 81})
	}
	return ports
}

// Words to write policies with.

func is(key string, values ...string) store.Requirement {
	return store.Requirement{Key: key, Operator: store.SelectorIn, Values: values}
}

func isNot(key string, values ...string) store.Requirement {
	return store.Requirement{Key: key, Operator: store.SelectorNotIn, Values: values}
}

func has(key string) store.Requirement {
	return store.Requirement{Key: key, Operator: store.SelectorExists}
}

func hasNot(key string) store.Requirement {
	return store.Requirement{Key: key, Operator: store.SelectorDoesNotExist}
}

func sel(requirements ...store.Requirement) store.Selector { return store.NewSelector(requirements...) }

func podsOf(s store.Selector) store.PolicyPeer       { return store.PolicyPeer{Pods: &s} }
func namespacesOf(s store.Selector) store.PolicyPeer { return store.PolicyPeer{Namespaces: &s} }
func podsIn(namespaces, pods store.Selector) store.PolicyPeer {
	return store.PolicyPeer{Namespaces: &namespaces, Pods: &pods}
}

func block(text string, except ...string) store.PolicyPeer {
	peer := store.PolicyPeer{Block: netip.MustParsePrefix(text)}
	for _, e := range except {
		peer.Except = append(peer.Except, netip.MustParsePrefix(e))
	}
	return peer
}

func peers(all ...store.PolicyPeer) []store.PolicyPeer { return all }
func ports(all ...store.PolicyPort) []store.PolicyPort { return all }

func rule(peers []store.PolicyPeer, ports ...store.PolicyPort) store.PolicyRule {
	return store.PolicyRule{Peers: peers, Ports: ports}
}

// ingress and egress return a policy that isolates in that direction but for the rules.
func ingress(namespace, name string, pods store.Selector, rules ...store.PolicyRule) *store.NetworkPolicy {
	return &store.NetworkPolicy{Name: store.ObjectName{Namespace: namespace, Name: name}, Pods: pods, IsolatesIngress: true, Ingress: rules}
}

func egress(namespace, name string, pods store.Selector, rules ...store.PolicyRule) *store.NetworkPolicy {
	return &store.NetworkPolicy{Name: store.ObjectName{Namespace: namespace, Name: name}, Pods: pods, IsolatesEgress: true, Egress: rules}
}

func both(namespace, name string, pods store.Selector, in, out []store.PolicyRule) *store.NetworkPolicy {
	return &store.NetworkPolicy{
		Name: store.ObjectName{Namespace: namespace, Name: name}, Pods: pods,
		IsolatesIngress: true, Ingress: in, IsolatesEgress: true, Egress: out,
	}
}

func port(protocol store.Protocol, number uint16) store.PolicyPort {
	return store.PolicyPort{Protocol: protocol, Port: number}
}

func portRange(protocol store.Protocol, first, last uint16) store.PolicyPort {
	return store.PolicyPort{Protocol: protocol, Port: first, EndPort: last}
}

func named(protocol store.Protocol, name string) store.PolicyPort {
	return store.PolicyPort{Protocol: protocol, Name: name}
}

func anyPort(protocol store.Protocol) store.PolicyPort { return store.PolicyPort{Protocol: protocol} }
