package policy

import (
	"net/netip"

	"github.com/twill-cni/twill/store"
)

// Direction is a side on which a pod's policies are asked.
type Direction uint8

// The directions. A connection between two pods is asked about at both: Egress of the one that opens it, then Ingress of the other.
const (
	Egress Direction = iota
	Ingress
)

func (d Direction) String() string { return [...]string{"egress", "ingress"}[d] }

// Flow is a connection as policies see it: from the client's own address to where it goes after the service proxy has chosen an endpoint.
type Flow struct {
	Src, Dst netip.Addr
	Protocol store.Protocol // any number of IANA's; those with ports are TCP, UDP and SCTP
	Port     uint16         // of the destination; 0 for protocols without ports

	// FromNode: the client is the destination pod's own node, which may always reach it (kubelet's probes).
	FromNode bool
}

// Decision is what the policies of one pod say of a flow.
type Decision struct {
	Direction Direction
	Allowed   bool
	Pod       store.PodKey // whose policies were asked; the zero PodKey when the address is no pod's

	// Tier is the tier that decided: Admin, NetworkPolicy or Baseline; empty when no policy had a say.
	Tier store.PolicyTier
	// Policies are the names of those that decided: of a ClusterNetworkPolicy, of the NetworkPolicies (namespace/name) that allow it, or, when none
	// does, of all those that isolate the pod. Sorted.
	Policies []string
	// Rule is the number of the rule that decided, from 0, and RuleName its name, if it has one; -1 when it was none. When several
	// NetworkPolicies allow the flow, it is the first rule that does of the first of them.
	Rule     int
	RuleName string
}

// Verdict is what becomes of a flow.
type Verdict struct{ Egress, Ingress Decision }

// Allowed reports whether both ends allow it.
func (v Verdict) Allowed() bool { return v.Egress.Allowed && v.Ingress.Allowed }

// TierNetworkPolicy is the tier of NetworkPolicies.
const TierNetworkPolicy store.PolicyTier = "NetworkPolicy"
