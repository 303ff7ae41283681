package store

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// ObjectName names a Service, an EndpointSlice or a pod.
type ObjectName struct{ Namespace, Name string }

func (n ObjectName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then by name.
func (n ObjectName) Compare(o ObjectName) int {
	if c := strings.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, o.Name)
}

// Service is what a node needs of a Service (core/v1). What the API would refuse is not in it. A Service is never changed after it
// was made.
type Service struct {
	Name    ObjectName
	Created time.Time // of two Services that claim one address and port, the older has it; then the smaller name

	Type       ServiceType
	ClusterIPs []netip.Addr // one of each family that the Service has; none when it is headless or an ExternalName
	Ports      []ServicePort

	ExternalIPs  []netip.Addr
	Ingress      []Ingress      // status.loadBalancer.ingress that bears an address
	SourceRanges []netip.Prefix // spec.loadBalancerSourceRanges; empty: every client

	ExternalLocal       bool          // externalTrafficPolicy: Local
	InternalLocal       bool          // internalTrafficPolicy: Local
	HealthCheckNodePort uint16        // 0: none
	AffinityTimeout     time.Duration // sessionAffinity ClientIP; 0: none
	Distribution        string        // spec.trafficDistribution
	TopologyMode        string        // annotation service.kubernetes.io/topology-mode
	ProxyName           string        // label service.kubernetes.io/service-proxy-name: somebody else's when it is not ours
	Headless            bool          // clusterIP None, or label service.kubernetes.io/headless: DNS's business alone

	Scheduler string            // annotation twill-cni.github.io/scheduler; empty: the default
	Weights   map[string]uint32 // annotation twill-cni.github.io/weights: endpoint address, node or zone to weight; nil: all weigh 1

	// ResetConnections (annotation twill-cni.github.io/reset-connections: "true"): TCP connections to endpoints that are gone are reset.
	ResetConnections bool

	Selector        map[string]string // of the pods behind it; nil when its EndpointSlices are written by somebody
	PublishNotReady bool              // spec.publishNotReadyAddresses
	ExternalName    string
}

// ServiceType is spec.type.
type ServiceType string

// The types of Service.
const (
	ServiceClusterIP    ServiceType = "ClusterIP"
	ServiceNodePort     ServiceType = "NodePort"
	ServiceLoadBalancer ServiceType = "LoadBalancer"
	ServiceExternalName ServiceType = "ExternalName"
)

// Protocol is a transport protocol's number (RFC 5237).
type Protocol uint8

// The protocols of Services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol?"
}

// ServicePort is one of a Service's ports. Its number on an endpoint is what the EndpointSlice says for the port's name.
type ServicePort struct {
	Name       string
	Protocol   Protocol
	Port       uint16
	NodePort   uint16 // 0: none
	TargetPort string // number or name; the pods' port, for those who make EndpointSlices
}

// Ingress is an address that a load balancer gave to a Service.
type Ingress struct {
	Addr  netip.Addr
	Proxy bool // ipMode Proxy: packets reach nodes with another destination, so the address is not to be caught here (KEP-1860)
}

// EndpointSlice is what a node needs of an EndpointSlice (discovery.k8s.io/v1) with addresses of IPv4 or IPv6. It is never changed
// after it was made.
type EndpointSlice struct {
	Name      ObjectName
	Service   string // in the same namespace
	IPv6      bool   // addressType
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort gives the number of a Service's port on all endpoints of a slice.
type EndpointPort struct {
	Name     string // of the Service's port
	Protocol Protocol
	Port     uint16
}

// Endpoint is one of a slice's endpoints. An unknown condition has the value that the API prescribes for it (ready and serving: true,
// terminating: false).
type Endpoint struct {
	Addr                        netip.Addr
	Hostname                    string // in DNS, below the Service's name; empty: none was given
	Ready, Serving, Terminating bool
	Node, Zone                  string
	HintZones, HintNodes        []string // hints.forZones, hints.forNodes
}

// ServiceChanges tells what is new of Services and their EndpointSlices. Within the maps, nil stands for an object that is gone.
type ServiceChanges struct {
	// Reset: this is all there is, and whatever is not in it is gone. The first change is a reset, and each after which the source
	// cannot say what happened in between.
	Reset    bool
	Services map[ObjectName]*Service
	Slices   map[ObjectName]*EndpointSlice
	// Networks are the ranges that ClusterIPs are from (ServiceCIDR); nil: as before.
	Networks []netip.Prefix
	// Zone is this node's topology zone (label topology.kubernetes.io/zone); nil: as before.
	Zone *string
	// NodeEligible reports whether load balancers may send to this node: it is there, and nobody has begun to remove it; nil: as before, at
	// first true.
	NodeEligible *bool
	// Rejected are objects that could not be read; each keeps its last good state.
	Rejected []Reject
}

// ServiceSource is where Services come from.
type ServiceSource interface {
	// WatchServices calls emit with a reset at first and with changes after that; changes that come together are told together. It goes
	// on through disconnects of the source, and never tells a reset that it knows to be incomplete. It returns when ctx has ended. emit is
	// called from one goroutine; what it is given belongs to it.
	WatchServices(ctx context.Context, emit func(ServiceChanges)) error
}
