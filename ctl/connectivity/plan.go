package connectivity

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/store"
)

// Kind says what a case is about.
type Kind string

// The kinds of cases, in the order in which they are told of.
const (
	PodToPod     Kind = "pod-to-pod"
	LargePackets Kind = "large-packets"
	PodToNode    Kind = "pod-to-node"
	NodeToPod    Kind = "node-to-pod"
	PodToService Kind = "pod-to-service"
	Hairpin      Kind = "hairpin"
	NodePort     Kind = "node-port"
	PodToDNS     Kind = "pod-to-dns"
	Outside      Kind = "outside"
	Control      Kind = "policy-control"
	Denied       Kind = "policy-denied"
	Allowed      Kind = "policy-allowed"
)

// kinds are all of them, with what people read.
var kinds = []struct {
	kind  Kind
	title string
}{
	{PodToPod, "pod to pod"}, {LargePackets, "large packets"}, {PodToNode, "pod to node"}, {NodeToPod, "node to pod"}, {PodToService, "pod to Service"},
	{Hairpin, "pod to itself by Service"}, {NodePort, "node ports"}, {PodToDNS, "pod to DNS"}, {Outside, "pod to outside"}, {Control, "before policies"},
	{Denied, "denied by policy"}, {Allowed, "allowed by policy"},
}

func (k Kind) title() string {
	for _, one := range kinds {
		if one.kind == k {
			return one.title
		}
	}
	return string(k)
}

// settles reports whether a kind depends on what is programmed after the test's objects were made.
func (k Kind) settles() bool {
	switch k {
	case PodToService, Hairpin, NodePort, PodToDNS, Denied, Allowed:
		return true
	}
	return false
}

// The ports of the pods' servers, and that of their Services. Policies leave Port open to clients, and ClosedPort to nobody: a server's own policy closes it, and to
// another client that of the client who asks.
const (
	Port        = 8080
	ClosedPort  = 8081
	ServicePort = 80
)

// namesPort is that of name servers, which policies leave open to everybody.
const namesPort = 53

// Role is what a pod is to the policies.
type Role string

// The roles. Policies close pods of the role server for all but those of the role client, which they let ask pods of the test and name servers alone.
const (
	Client Role = "client"
	Server Role = "server"
)

// Pod is an end of the test: it asks and it answers.
type Pod struct {
	Name      string
	Node      string
	Role      Role
	Addresses []netip.Addr
	MTU       int          // of its link, in bytes
	Service   []netip.Addr // the ClusterIPs of the Service of which the pod is the only endpoint
	// ServiceName is the Service's name for a lookup, with the cluster's domain; NameServers are those that the pod was told of.
	ServiceName string
	NameServers []netip.Addr
	NodePorts   map[store.Protocol]uint16 // the Service's, at the address of every node; a pod of the role client has none
}

// Node is an end that has no server of the test.
type Node struct {
	Name      string
	Addresses []netip.Addr
	Asks      bool // questions can be asked from it
	AsksOwn   bool // of its own pods alone, at their first address: what a kubelet probes
}

// Topology is what there is to be tested.
type Topology struct {
	Pods    []Pod
	Nodes   []Node
	Outside []netip.AddrPort // with port 0: by an echo request
	Beyond  []string         // places outside of the cluster, from which node ports can be asked in every family
	Parts   map[Part]string  // why a part of the test is not run; empty or absent: it is run
}

// Part is what a cluster may have and may not have.
type Part string

// The parts.
const (
	PartServices Part = "services"
	PartDNS      Part = "dns"
	PartPolicies Part = "policies"
)

// LeaveOut leaves a part out when nodes have it off, by that setting.
func (t *Topology) LeaveOut(part Part, setting string, nodes []string) {
	if len(nodes) > 0 {
		t.Parts[part] = setting + " on " + strings.Join(nodes, ", ")
	}
}

// Case is a question with the answer that it is to have.
type Case struct {
	Kind     Kind
	From, To string
	Question
	Expect probe.Outcome // Reached or Silent
}

// MostCases is the number of cases above which Plan refuses.
const MostCases = 200_000

// Fits returns an error when Plan would refuse that many pods.
func Fits(pods int) error {
	if n := pods * pods * 12; n > MostCases {
		return fmt.Errorf("%d pods would be asked some %d times: choose fewer nodes with --nodes", pods, n)
	}
	return nil
}

// Plan lists the cases of a topology: the full matrix of its pods, once for each address of the one that is asked.
func Plan(t *Topology) ([]Case, error) {
	if err := Fits(len(t.Pods)); err != nil {
		return nil, err
	}
	var p plan
	for i := range t.Pods {
		from := &t.Pods[i]
		for j := range t.Pods {
			p.pair(t, from, &t.Pods[j])
		}
		for _, n := range t.Nodes {
			for _, a := range n.Addresses {
				p.add(PodToNode, from.Name, n.Name, echoTo(a))
			}
		}
		p.outside(Outside, t, from)
	}
	p.nodePorts(t)
	for _, n := range t.Nodes {
		for i := range t.Pods {
			to := &t.Pods[i]
			for k, a := range to.Addresses {
				if n.Asks || n.AsksOwn && to.Node == n.Name && k == 0 {
					p.add(NodeToPod, n.Name, to.Name, to.question(store.TCP, netip.AddrPortFrom(a, Port)))
				}
			}
		}
	}
	if t.Parts[PartPolicies] == "" {
		p.policies(t)
	}
	return p.cases, nil
}

type plan struct{ cases []Case }

func (p *plan) add(kind Kind, from, to string, q Question) {
	expect := probe.Reached
	if kind == Denied {
		expect = probe.Silent
	}
	p.cases = append(p.cases, Case{Kind: kind, From: from, To: to, Question: q, Expect: expect})
}

// pair adds what one pod asks another, or itself.
func (p *plan) pair(t *Topology, from, to *Pod) {
	toService := PodToService
	if from == to {
		toService = Hairpin
	}
	for _, protocol := range []store.Protocol{store.TCP, store.UDP} {
		for _, a := range to.Addresses {
			if from != to && from.speaks(a) {
				p.add(PodToPod, from.Name, to.Name, to.question(protocol, netip.AddrPortFrom(a, Port)))
			}
		}
		for _, a := range to.Service {
			if t.Parts[PartServices] == "" && from.speaks(a) {
				p.add(toService, from.Name, to.Name, to.question(protocol, netip.AddrPortFrom(a, ServicePort)))
			}
		}
	}
	for _, a := range to.Addresses {
		if mtu := min(from.MTU, to.MTU); from != to && mtu > 0 && from.speaks(a) {
			q := echoTo(a)
			q.Size = mtu
			p.add(LargePackets, from.Name, to.Name, q)
		}
	}
	if t.Parts[PartDNS] == "" && from == to {
		p.names(PodToDNS, from)
	}
}

// nodePorts adds what is asked at the nodes' addresses, from a client of each node and from beyond. Every node is asked from each of them, and for a pod of every node, its own
// and others: a Latin square of nodes needs as many questions as there are pairs of them, and not the cube.
func (p *plan) nodePorts(t *Topology) {
	var clients, behind []*Pod
	for i := range t.Pods {
		switch one := &t.Pods[i]; {
		case one.Role == Client:
			clients = append(clients, one)
		case len(one.NodePorts) > 0:
			behind = append(behind, one)
		}
	}
	if t.Parts[PartServices] != "" || len(behind) == 0 {
		return
	}
	for at, n := range t.Nodes {
		for i, from := range clients {
			p.nodePort(from.Name, &n, behind[(at+i)%len(behind)], from.speaks)
		}
		for _, from := range t.Beyond {
			p.nodePort(from, &n, behind[(at+1)%len(behind)], func(netip.Addr) bool { return true })
		}
	}
}

// nodePort adds the questions at the node's first address of each family: where the proxy answers unless it is told otherwise.
func (p *plan) nodePort(from string, at *Node, behind *Pod, speaks func(netip.Addr) bool) {
	for _, v6 := range []bool{false, true} {
		is := func(a netip.Addr) bool { return a.Is6() == v6 }
		i := slices.IndexFunc(at.Addresses, is)
		if i < 0 || !slices.ContainsFunc(behind.Service, is) || !speaks(at.Addresses[i]) {
			continue
		}
		for _, protocol := range []store.Protocol{store.TCP, store.UDP} {
			if port := behind.NodePorts[protocol]; port != 0 {
				p.add(NodePort, from, at.Name, behind.question(protocol, netip.AddrPortFrom(at.Addresses[i], port)))
			}
		}
	}
}

// names adds the lookups of a pod's own Service, in each family that it has, at each of the name servers.
func (p *plan) names(kind Kind, from *Pod) {
	for _, server := range from.NameServers {
		for _, v6 := range []bool{false, true} {
			var want []string
			for _, a := range from.Service {
				if a.Is6() == v6 {
					want = append(want, a.String())
				}
			}
			if want != nil {
				p.add(kind, from.Name, server.String(), Question{Protocol: store.UDP, To: netip.AddrPortFrom(server, namesPort), Lookup: from.ServiceName, V6: v6, Want: want})
			}
		}
	}
}

func (p *plan) outside(kind Kind, t *Topology, from *Pod) {
	for _, to := range t.Outside {
		if !from.speaks(to.Addr()) {
			continue
		}
		q := Question{Protocol: store.TCP, To: to}
		if to.Port() == 0 {
			q = echoTo(to.Addr())
		}
		if kind == Denied && to.Port() == namesPort {
			p.add(Allowed, from.Name, to.Addr().String(), q)
			continue
		}
		p.add(kind, from.Name, to.Addr().String(), q)
	}
}

// policies adds what is denied, with the control of each, and what is still allowed. On ingress that is by peer, where a server asks a server, and by port, where a client
// asks a server for the closed one. On egress a client asks another for the closed port, which it may ask of servers, or somebody outside. No two policies deny the
// same: one that does nothing is not hidden by another.
func (p *plan) policies(t *Topology) {
	for i := range t.Pods {
		if from := &t.Pods[i]; from.Role == Client {
			p.outside(Denied, t, from)
			if t.Parts[PartDNS] == "" {
				p.names(Allowed, from)
			}
		}
		for j := range t.Pods {
			from, to := &t.Pods[i], &t.Pods[j]
			for _, a := range to.Addresses {
				if from == to || !from.speaks(a) {
					continue
				}
				open, closed := to.question(store.TCP, netip.AddrPortFrom(a, Port)), to.question(store.TCP, netip.AddrPortFrom(a, ClosedPort))
				switch {
				case from.Role == Server && to.Role == Client:
					p.add(Allowed, from.Name, to.Name, open)
				case from.Role == Server: // its control is that of PodToPod
					p.add(Denied, from.Name, to.Name, open)
				default:
					p.add(Control, from.Name, to.Name, closed)
					p.add(Denied, from.Name, to.Name, closed)
					p.add(Allowed, from.Name, to.Name, open)
				}
			}
		}
	}
}

// question asks the pod's server for its name.
func (p *Pod) question(protocol store.Protocol, at netip.AddrPort) Question {
	return Question{Protocol: protocol, To: at, Want: []string{p.Name}}
}

// Serve gives the pod the ClusterIPs and the node ports of its Service, as the cluster made it.
func (p *Pod) Serve(made *corev1.Service) error {
	for _, text := range made.Spec.ClusterIPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("ClusterIP of Service %s: %w", p.Name, err)
		}
		p.Service = append(p.Service, a)
	}
	for _, port := range made.Spec.Ports {
		if port.NodePort == 0 {
			continue
		}
		if p.NodePorts == nil {
			p.NodePorts = map[store.Protocol]uint16{}
		}
		protocol := store.TCP
		if port.Protocol == corev1.ProtocolUDP {
			protocol = store.UDP
		}
		p.NodePorts[protocol] = uint16(port.NodePort)
	}
	return nil
}

// speaks reports whether the pod has an address of the family.
func (p *Pod) speaks(to netip.Addr) bool {
	for _, a := range p.Addresses {
		if a.Is4() == to.Is4() {
			return true
		}
	}
	return false
}

func echoTo(a netip.Addr) Question {
	protocol := probe.ICMP
	if a.Is6() {
		protocol = probe.ICMPv6
	}
	return Question{Protocol: protocol, To: netip.AddrPortFrom(a, 0)}
}
