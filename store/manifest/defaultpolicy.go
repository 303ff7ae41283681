package manifest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
)

// DefaultNetworkPolicy sets what the manifest leaves out as the API server does (k8s.io/kubernetes pkg/apis/networking/v1/defaults.go).
func DefaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	p.APIVersion, p.Kind = "networking.k8s.io/v1", KindNetworkPolicy
	defaultMeta(&p.ObjectMeta)
	for i := range p.Spec.Ingress {
		defaultPolicyPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPolicyPorts(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = policyTypes(&p.Spec)
	}
}

// policyTypes returns the directions in which a policy isolates its pods: those that it names, else ingress, and egress when it has a rule for that.
func policyTypes(spec *networkingv1.NetworkPolicySpec) []networkingv1.PolicyType {
	switch {
	case len(spec.PolicyTypes) > 0:
		return spec.PolicyTypes
	case len(spec.Egress) > 0:
		return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	}
	return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// DefaultClusterNetworkPolicy takes out what is the server's to say. The API has no defaults for the rest.
func DefaultClusterNetworkPolicy(p *ClusterNetworkPolicy) {
	p.APIVersion, p.Kind = ClusterPolicyGroup+"/"+ClusterPolicyVersion, KindClusterNetworkPolicy
	serverMeta(&p.ObjectMeta)
	p.Status = ClusterPolicyStatus{}
}

// DefaultNamespaceObject gives a Namespace the label with its name, as the API server does, and leaves nothing but its metadata.
func DefaultNamespaceObject(ns *corev1.Namespace) {
	*ns = corev1.Namespace{ObjectMeta: ns.ObjectMeta}
	ns.APIVersion, ns.Kind = "v1", KindNamespace
	serverMeta(&ns.ObjectMeta)
	if ns.Name == "" {
		return
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[store.NamespaceNameLabel] = ns.Name
}

// isolates reports whether a policy isolates its pods in a direction.
func isolates(spec *networkingv1.NetworkPolicySpec, t networkingv1.PolicyType) bool {
	return slices.Contains(policyTypes(spec), t)
}
