package manifest

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ClusterNetworkPolicy is the standard channel of policy.networking.k8s.io/v1alpha2 (SIG Network's network-policy-api), of which no Go module was
// published. What the API requires is a pointer, so that what is missing can be told from zero.
type ClusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterPolicySpec   `json:"spec"`
	Status ClusterPolicyStatus `json:"status,omitzero"`
}

// ClusterPolicySpec is the spec of a ClusterNetworkPolicy.
type ClusterPolicySpec struct {
	Tier     string                     `json:"tier"`     // Admin or Baseline
	Priority *int32                     `json:"priority"` // 0 to 1000
	Subject  ClusterPolicySubject       `json:"subject"`
	Ingress  []ClusterPolicyIngressRule `json:"ingress,omitempty"`
	Egress   []ClusterPolicyEgressRule  `json:"egress,omitempty"`
}

// ClusterPolicyStatus is what implementations say of a ClusterNetworkPolicy; nothing is made of it.
type ClusterPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ClusterPolicySubject says which pods a policy is about; one of the fields is set.
type ClusterPolicySubject struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// NamespacedPods selects pods by their own and their namespace's labels. Empty selectors select everything.
type NamespacedPods struct {
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"` // nil: every namespace
	PodSelector       *metav1.LabelSelector `json:"podSelector"`
}

// ClusterPolicyIngressRule is what becomes of packets that come from one of its peers.
type ClusterPolicyIngressRule struct {
	Name      string                     `json:"name,omitempty"`
	Action    string                     `json:"action"` // Accept, Deny or Pass
	From      []ClusterPolicyIngressPeer `json:"from"`
	Protocols []ClusterPolicyProtocol    `json:"protocols,omitempty"`
}

// ClusterPolicyEgressRule is what becomes of packets that go to one of its peers.
type ClusterPolicyEgressRule struct {
	Name      string                    `json:"name,omitempty"`
	Action    string                    `json:"action"`
	To        []ClusterPolicyEgressPeer `json:"to"`
	Protocols []ClusterPolicyProtocol   `json:"protocols,omitempty"`
}

// ClusterPolicyIngressPeer is a source; one of the fields is set.
type ClusterPolicyIngressPeer struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// ClusterPolicyEgressPeer is a destination; one of the fields is set. Nodes and DomainNames are of the experimental channel: they are here to be
// refused by name.
type ClusterPolicyEgressPeer struct {
	Namespaces  *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods        *NamespacedPods       `json:"pods,omitempty"`
	Networks    []string              `json:"networks,omitempty"`
	Nodes       *metav1.LabelSelector `json:"nodes,omitempty"`
	DomainNames []string              `json:"domainNames,omitempty"`
}

// ClusterPolicyProtocol is a protocol with its destination port, or the name of a port of the destination pod; one of the fields is set.
type ClusterPolicyProtocol struct {
	TCP                  *ClusterPolicyTransport `json:"tcp,omitempty"`
	UDP                  *ClusterPolicyTransport `json:"udp,omitempty"`
	SCTP                 *ClusterPolicyTransport `json:"sctp,omitempty"`
	DestinationNamedPort string                  `json:"destinationNamedPort,omitempty"`
}

// ClusterPolicyTransport is what a rule asks for of TCP, UDP or SCTP.
type ClusterPolicyTransport struct {
	DestinationPort *ClusterPolicyPort `json:"destinationPort,omitempty"`
}

// ClusterPolicyPort is a port or a range of ports; one of the fields is set.
type ClusterPolicyPort struct {
	Number *int32                  `json:"number,omitempty"`
	Range  *ClusterPolicyPortRange `json:"range,omitempty"`
}

// ClusterPolicyPortRange is a range of ports, both ends among them.
type ClusterPolicyPortRange struct {
	Start int32 `json:"start"`
	End   int32 `json:"end"`
}

// clusterRule is a rule of either direction.
type clusterRule struct {
	name, action string
	peers        []ClusterPolicyEgressPeer // what peers of ingress can be is part of what those of egress can be
	peersField   string
	protocols    []ClusterPolicyProtocol
}

func ingressRules(spec *ClusterPolicySpec) []clusterRule {
	var out []clusterRule
	for _, r := range spec.Ingress {
		rule := clusterRule{name: r.Name, action: r.Action, peersField: "from", protocols: r.Protocols}
		for _, p := range r.From {
			rule.peers = append(rule.peers, ClusterPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
		}
		out = append(out, rule)
	}
	return out
}

func egressRules(spec *ClusterPolicySpec) []clusterRule {
	var out []clusterRule
	for _, r := range spec.Egress {
		out = append(out, clusterRule{name: r.Name, action: r.Action, peersField: "to", peers: r.To, protocols: r.Protocols})
	}
	return out
}
