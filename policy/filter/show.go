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

// Facts returns all that was applied, as a reset. Its objects are the Filter's: they are not to be changed.
func (f *Filter) Facts() store.PolicyChanges {
	facts := store.PolicyChanges{
		Reset: true, Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: maps.Clone(f.cluster),
		Namespaces: map[string]*store.Namespace{}, Pods: make(map[store.PodKey]*store.Pod, len(f.pods)),
	}
	for _, policies := range f.policies {
		for _, p := range policies {
			facts.Policies[p.Name] = p
		}
	}
	for name, n := range f.namespaces {
		if n.object != nil {
			facts.Namespaces[name] = n.object
		}
	}
	for key, p := range f.pods {
		facts.Pods[key] = p.object
	}
	return facts
}
