package bgp

import "net/netip"

// ServiceAddress is an address of a Service that this node may announce; whether it does is the configuration's decision.
type ServiceAddress struct {
	Prefix netip.Prefix `json:"prefix"` // a host route
	Kind   ServiceKind  `json:"kind"`
	// Local: only nodes with local endpoints have the address in their list, as the Service's traffic policy Local demands.
	Local bool `json:"local,omitempty"`
}

// ServiceKind is what kind of address a Service answers at.
type ServiceKind string

// The kinds.
const (
	ClusterIP      ServiceKind = "ClusterIP"
	ExternalIP     ServiceKind = "ExternalIP"
	LoadBalancerIP ServiceKind = "LoadBalancerIP"
)

// Origin says what made a node announce a prefix.
type Origin string

// The origins.
const (
	OriginPodSubnet Origin = "pod subnet"
	OriginConfig    Origin = "announce" // the configuration's key
	OriginService   Origin = "Service"
	OriginAggregate Origin = "aggregate"
)
