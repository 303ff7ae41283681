package policy

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Peer is one end of a connection as policies see it from the other end.
type Peer struct {
	Addr netip.Addr
	Pod  *store.Pod // whose address it is; nil: no pod's, so that only blocks match it
	// Namespace are the labels of the pod's namespace, as NamespaceLabels returns them.
	Namespace map[string]string
}

// NamespaceLabels returns the labels of the namespace with that name. One that is not known (yet) has the label that every namespace has, and
// no other.
func NamespaceLabels(name string, namespace *store.Namespace) map[string]string {
	if namespace == nil {
		return map[string]string{store.NamespaceNameLabel: name}
	}
	return namespace.Labels
}

// MatchesPeer reports whether term means the peer. Namespace is that of the policy; it does not matter to terms that say which namespaces they
// mean, nor to blocks. A block means whatever has an address in it, pods too.
func MatchesPeer(term store.PolicyPeer, namespace string, peer Peer) bool {
	if term.Block.IsValid() {
		within := func(block netip.Prefix) bool { return block.Contains(peer.Addr) }
		return within(term.Block) && !slices.ContainsFunc(term.Except, within)
	}
	if peer.Pod == nil {
		return false
	}
	if term.Namespaces == nil && peer.Pod.Name.Namespace != namespace {
		return false
	}
	if term.Namespaces != nil && !term.Namespaces.Matches(peer.Namespace) {
		return false
	}
	return term.Pods == nil || term.Pods.Matches(peer.Pod.Labels)
}

// HasPorts reports whether connections of the protocol have ports that policies can tell.
func HasPorts(protocol store.Protocol) bool {
	return protocol == store.TCP || protocol == store.UDP || protocol == store.SCTP
}

// PortRange is a range of ports, both ends inclusive.
type PortRange struct {
	Protocol    store.Protocol
	First, Last uint16
}

// Contains reports whether it contains the port.
func (r PortRange) Contains(protocol store.Protocol, port uint16) bool {
	return r.Protocol == protocol && r.First <= port && port <= r.Last
}

// PortRanges returns the ports that port means on the destination, which is nil when it is no pod. It is one range, but for names: the destination's own
// ports are asked, so a name may mean another number on each pod, nothing where no port has the name and the protocol, and more than one port
// where several containers use the name.
func PortRanges(port store.PolicyPort, destination *store.Pod) []PortRange {
	if port.Name == "" {
		switch {
		case !HasPorts(port.Protocol):
			return nil
		case port.Port == 0:
			return []PortRange{{port.Protocol, 0, 65535}}
		}
		return []PortRange{{port.Protocol, port.Port, max(port.Port, port.EndPort)}}
	}
	if destination == nil {
		return nil
	}
	var ranges []PortRange
	for _, own := range destination.Ports {
		if own.Name == port.Name && (port.Protocol == 0 || own.Protocol == port.Protocol) {
			ranges = append(ranges, PortRange{own.Protocol, own.Port, own.Port})
		}
	}
	return ranges
}

// Claimants returns the pods that count for an address: those of all that have it, in the order of their keys. There is more than one while the
// cluster still tells of a pod whose address a successor has got already, and nothing in what it tells says which of them is
// the successor; the order in which they were told does not, either. So all count, and a connection has to be allowed whichever of them it
// is (Strictest). A pod without policies is not hindered by that, and nobody inherits a right from the dead.
func Claimants(addr netip.Addr, pods []*store.Pod) []*store.Pod {
	var claimants []*store.Pod
	for _, pod := range pods {
		if slices.Contains(pod.Addrs, addr) {
			claimants = append(claimants, pod)
		}
	}
	slices.SortFunc(claimants, func(a, b *store.Pod) int { return comparePodKeys(a.Key(), b.Key()) })
	return claimants
}

// Strictest returns what becomes of a connection when it is uncertain whose it is: the first of the decisions that denies it, else the first. There is
// one for each pair of claimants of its two addresses; claimants of the address whose policies are asked come first, then those of the peer,
// each in the order of Claimants.
func Strictest(decisions []Decision) Decision {
	for _, d := range decisions {
		if !d.Allowed {
			return d
		}
	}
	return decisions[0]
}
