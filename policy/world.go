package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// World knows all policies and all that they select, and says what becomes of a connection. It looks through everything each time it is asked, so
// that what it says is plainly what policies mean. It is for one goroutine at a time.
type World struct {
	policies   map[store.ObjectName]*store.NetworkPolicy
	cluster    map[string]*store.ClusterNetworkPolicy
	namespaces map[string]*store.Namespace
	pods       map[store.PodKey]*store.Pod
}

// NewWorld returns a World in which there is nothing.
func NewWorld() *World {
	return &World{
		policies:   map[store.ObjectName]*store.NetworkPolicy{},
		cluster:    map[string]*store.ClusterNetworkPolicy{},
		namespaces: map[string]*store.Namespace{},
		pods:       map[store.PodKey]*store.Pod{},
	}
}

// Apply takes changes over. What is in them is not changed.
func (w *World) Apply(changes store.PolicyChanges) {
	if changes.Reset {
		*w = *NewWorld()
	}
	apply(w.policies, changes.Policies)
	apply(w.cluster, changes.ClusterPolicies)
	apply(w.namespaces, changes.Namespaces)
	apply(w.pods, changes.Pods)
}

func apply[K comparable, V any](all, changes map[K]*V) {
	for key, object := range changes {
		if object == nil {
			delete(all, key)
		} else {
			all[key] = object
		}
	}
}

// Decide says what becomes of the flow: first at the pod that opens it, then at the one that it goes to.
func (w *World) Decide(flow Flow) Verdict {
	flow.Src, flow.Dst = flow.Src.Unmap(), flow.Dst.Unmap()
	verdict := Verdict{Egress: w.decide(Egress, flow), Ingress: w.decide(Ingress, flow)}
	if flow.Src == flow.Dst {
		verdict.Egress, verdict.Ingress = unasked(verdict.Egress), unasked(verdict.Ingress)
	}
	if flow.FromNode {
		verdict.Ingress = unasked(verdict.Ingress)
	}
	return verdict
}

// unasked is the decision about what policies have no say in.
func unasked(d Decision) Decision {
	return Decision{Direction: d.Direction, Allowed: true, Pod: d.Pod, Rule: -1}
}

func (w *World) decide(direction Direction, flow Flow) Decision {
	own, other := w.Peers(flow.Src), w.Peers(flow.Dst)
	if direction == Ingress {
		own, other = other, own
	}
	var decisions []Decision
	for _, subject := range own {
		for _, peer := range other {
			decisions = append(decisions, w.decideFor(direction, subject, peer, flow))
		}
	}
	return Strictest(decisions)
}

func (w *World) decideFor(direction Direction, subject, peer Peer, flow Flow) Decision {
	if subject.Pod == nil {
		return Decision{Direction: direction, Allowed: true, Rule: -1}
	}
	destination := peer.Pod
	if direction == Ingress {
		destination = subject.Pod
	}
	chain := Select(direction, subject.Pod, subject.Namespace, maps.Values(w.policies), maps.Values(w.cluster))
	d := chain.Decide(func(r Rule) bool {
		return r.MatchesPeer(peer) && r.MatchesPort(destination, flow.Protocol, flow.Port)
	})
	d.Pod = subject.Pod.Key()
	return d
}

// Peers returns whose an address may be: each pod that claims it (Claimants), or the address alone when none does.
func (w *World) Peers(addr netip.Addr) []Peer {
	var peers []Peer
	for _, pod := range Claimants(addr, slices.Collect(maps.Values(w.pods))) {
		namespace := pod.Name.Namespace
		peers = append(peers, Peer{Addr: addr, Pod: pod, Namespace: NamespaceLabels(namespace, w.namespaces[namespace])})
	}
	if peers == nil {
		return []Peer{{Addr: addr}}
	}
	return peers
}

func comparePodKeys(a, b store.PodKey) int {
	return cmp.Or(a.Name.Compare(b.Name), cmp.Compare(a.Node, b.Node))
}
