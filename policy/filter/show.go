package filter

import (
	"maps"
	"net/netip"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// PodsAt returns the pods that have an address, by what was applied: more than one while a pod that has ended is still there beside its successor.
func (f *Filter) PodsAt(addr netip.Addr) []store.PodKey {
	var keys []store.PodKey
	for _, peer := range f.peers(addr.Unmap()) {
		if peer.Pod != nil {
			keys = append(keys, peer.Pod.Key())
		}
	}
	return keys
}

// Policies returns the names of the policies that a pod has in a direction, in the order in which they are asked.
func (f *Filter) Policies(direction policy.Direction, key store.PodKey) []string {
	p := f.pods[key]
	if p == nil {
		return nil
	}
	chain := policy.Select(direction, p.object, p.namespace.labels(), maps.Values(f.policies[p.namespace.name]), maps.Values(f.cluster))
	var names []string
	for _, c := range chain.Admin {
		names = append(names, c.Name)
	}
	for _, n := range chain.Isolating {
		names = append(names, n.Name.String())
	}
	for _, c := range chain.Baseline {
		names = append(names, c.Name)
	}
	return names
}

// Pods returns all pods that were applied, in no order. They are the Filter's: they are not to be changed, and are not changed later.
func (f *Filter) Pods() []*store.Pod {
	out := make([]*store.Pod, 0, len(f.pods))
	for _, p := range f.pods {
		out = append(out, p.object)
	}
	return out
}

// Named returns the pods of that name: one on a node, and more than one while a pod that has moved is still there on its old one. They are the Filter's, see Pods.
// Only those of the name's namespace are looked through.
func (f *Filter) Named(name store.ObjectName) []*store.Pod {
	n := f.namespaces[name.Namespace]
	if n == nil {
		return nil
	}
	var out []*store.Pod
	for p := range n.pods {
		if p.object.Name == name {
			out = append(out, p.object)
		}
	}
	return out
}

// PodFacts returns a pod of a node with what policies know it by: labels of its namespace, the policies that may be about it. The pod is nil when none was applied.
func (f *Filter) PodFacts(key store.PodKey) (pod *store.Pod, facts store.PolicyChanges) {
	p := f.pods[key]
	if p == nil {
		return nil, store.PolicyChanges{}
	}
	return p.object, f.factsOf(p)
}

// FactsAt returns what was applied, as a reset, as far as a connection between these addresses depends on it: the pods that have them, their namespaces, the policies
// that may be about these pods. It does not grow with the cluster's pods. Its objects are the Filter's: they are not to be changed, and are not changed later.
func (f *Filter) FactsAt(addrs ...netip.Addr) store.PolicyChanges {
	var pods []*pod
	for _, addr := range addrs {
		if a := f.addrs[addr.Unmap()]; a != nil {
			pods = append(pods, a.pods...)
		}
	}
	return f.factsOf(pods...)
}

// factsOf returns these pods with their namespaces and the policies of these, and all policies that have no namespace.
func (f *Filter) factsOf(pods ...*pod) store.PolicyChanges {
	facts := store.PolicyChanges{
		Reset: true, Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: maps.Clone(f.cluster),
		Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{},
	}
	for _, p := range pods {
		facts.Pods[p.object.Key()] = p.object
		if p.namespace.object != nil {
			facts.Namespaces[p.namespace.name] = p.namespace.object
		}
		for _, policy := range f.policies[p.namespace.name] {
			facts.Policies[policy.Name] = policy
		}
	}
	return facts
}

// Namespaces returns the namespaces that were applied, by name. They are the Filter's, see Pods.
func (f *Filter) Namespaces() map[string]*store.Namespace {
	out := make(map[string]*store.Namespace, len(f.namespaces))
	for name, n := range f.namespaces {
		if n.object != nil {
			out[name] = n.object
		}
	}
	return out
}
