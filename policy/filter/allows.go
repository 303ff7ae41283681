package filter

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// Flow is a connection to be judged.
type Flow struct {
	policy.Flow
	ToNode bool // the destination is an address of the node itself, which has no policies
}

// Side is what the table says at one end of a flow.
type Side uint8

// The answers of a side.
const (
	Elsewhere Side = iota // the end is none of this node's pods, or not asked: FromNode, ToNode, a pod's way to itself
	Open                  // the policies of the pod allow it
	Refused               // they do not
	Unknown               // an address in Config.NodePods that no enforced pod has: closed
)

func (s Side) String() string { return [...]string{"elsewhere", "open", "refused", "unknown"}[s] }

// Answer is what the table says of a flow.
type Answer struct{ Egress, Ingress Side }

// Allowed reports whether the packet passes.
func (a Answer) Allowed() bool { return a.Egress <= Open && a.Ingress <= Open }

// Local reports whether a local end was asked at all.
func (a Answer) Local() bool { return a.Egress != Elsewhere || a.Ingress != Elsewhere }

// Allows says what the tables of the last Plan, once written, do with a new connection. It does the lookups that the kernel does, in memory:
// it is for all flows of conntrack.
func (f *Filter) Allows(flow Flow) Answer {
	flow.Src, flow.Dst = flow.Src.Unmap(), flow.Dst.Unmap()
	if flow.Src == flow.Dst && f.opened[flow.Src] != nil {
		return Answer{}
	}
	var a Answer
	if !flow.FromNode {
		a.Egress = f.side(policy.Egress, flow.Src, flow)
	}
	if !flow.FromNode && !flow.ToNode {
		a.Ingress = f.side(policy.Ingress, flow.Dst, flow)
	}
	return a
}

func (f *Filter) side(direction policy.Direction, own netip.Addr, flow Flow) Side {
	l := f.opened[own]
	if l == nil {
		if slices.ContainsFunc(f.config.NodePods, func(p netip.Prefix) bool { return p.Contains(own) }) {
			return Unknown
		}
		return Elsewhere
	}
	s := l.subjects[direction]
	if s == nil {
		return Open
	}
	other := flow.Dst
	if direction == policy.Ingress {
		other = flow.Src
	}
	if s.between(f.class(other)).contains(flow.Protocol, flow.Port) {
		return Open
	}
	return Refused
}

// class returns the class that the kernel takes an address for.
func (f *Filter) class(addr netip.Addr) *class {
	if a := f.addrs[addr]; a != nil && a.entry != nil {
		return a.entry
	}
	return classAt(f.networks, addr)
}

// Explain says which policies of a local pod decide about a flow in a direction, and how; ok is false when no pod whose policies are known is at that
// end. It knows of what was applied, be it planned or not.
func (f *Filter) Explain(direction policy.Direction, flow policy.Flow) (decision policy.Decision, ok bool) {
	flow.Src, flow.Dst = flow.Src.Unmap(), flow.Dst.Unmap()
	own, other := flow.Src, flow.Dst
	if direction == policy.Ingress {
		own, other = other, own
	}
	l := f.localAddrs[own]
	if l == nil {
		return policy.Decision{Direction: direction, Rule: -1}, false
	}
	p := f.enforceable(l.localID)
	if p == nil {
		return policy.Decision{Direction: direction, Rule: -1}, false
	}
	chain := policy.Select(direction, p.object, p.namespace.labels(), maps.Values(f.policies[p.namespace.name]), maps.Values(f.cluster))
	var decisions []policy.Decision
	for _, peer := range f.peers(other) {
		destination := peer.Pod
		if direction == policy.Ingress {
			destination = p.object
		}
		decisions = append(decisions, chain.Decide(func(r policy.Rule) bool {
			return r.MatchesPeer(peer) && r.MatchesPort(destination, flow.Protocol, flow.Port)
		}))
	}
	decision = policy.Strictest(decisions)
	decision.Pod = p.object.Key()
	return decision, true
}

// peers returns whose an address may be.
func (f *Filter) peers(addr netip.Addr) []policy.Peer {
	var pods []*store.Pod
	if l, local := f.localAddrs[addr]; local {
		if l != nil && f.enforceable(l.localID) != nil {
			pods = append(pods, f.pods[l.key].object)
		}
	} else if a := f.addrs[addr]; a != nil {
		for _, p := range a.pods {
			pods = append(pods, p.object)
		}
		pods = policy.Claimants(addr, pods)
	}
	if len(pods) == 0 {
		return []policy.Peer{{Addr: addr}}
	}
	peers := make([]policy.Peer, len(pods))
	for i, p := range pods {
		peers[i] = policy.Peer{Addr: addr, Pod: p, Namespace: f.namespaces[p.Name.Namespace].labels()}
	}
	return peers
}
