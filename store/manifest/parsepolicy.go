package manifest

import (
	"strings"

	yaml "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
)

// ClusterPolicyGroup, ClusterPolicyVersion and ClusterPolicyResource say where the API has ClusterNetworkPolicies.
const (
	ClusterPolicyGroup    = "policy.networking.k8s.io"
	ClusterPolicyVersion  = "v1alpha2"
	ClusterPolicyResource = "clusternetworkpolicies"
)

// ClusterScoped reports whether objects of that kind are in no namespace.
func ClusterScoped(kind string) bool {
	return kind == KindNamespace || kind == KindClusterNetworkPolicy
}

// Title names an object for people: "service default/web", "namespace shop".
func Title(kind string, name store.ObjectName) string {
	if ClusterScoped(kind) {
		return strings.ToLower(kind) + " " + name.Name
	}
	return strings.ToLower(kind) + " " + name.String()
}

func parseNetworkPolicy(n *yaml.Node) (Document, error) {
	p := &networkingv1.NetworkPolicy{}
	s, err := decodeStrict(n, p)
	if err != nil {
		return Document{}, err
	}
	DefaultNetworkPolicy(p)
	if err := s.located(ValidateNetworkPolicy(p)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindNetworkPolicy, Name: nameOf(p), NetworkPolicy: p}, nil
}

func parseClusterPolicy(n *yaml.Node) (Document, error) {
	p := &ClusterNetworkPolicy{}
	s, err := decodeStrict(n, p)
	if err != nil {
		return Document{}, err
	}
	DefaultClusterNetworkPolicy(p)
	if err := s.located(ValidateClusterNetworkPolicy(p)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindClusterNetworkPolicy, Name: nameOf(p), ClusterPolicy: p}, nil
}

func parseNamespace(n *yaml.Node) (Document, error) {
	ns := &corev1.Namespace{}
	s, err := decodeStrict(n, ns)
	if err != nil {
		return Document{}, err
	}
	DefaultNamespaceObject(ns)
	if err := s.located(ValidateNamespace(ns)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindNamespace, Name: nameOf(ns), Namespace: ns}, nil
}
