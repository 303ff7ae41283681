package service

import (
	"net/netip"
	"time"

	"github.com/twill-cni/twill/store"
)

// Node is what the meaning of a Service on a node depends on. It is never changed after it was made.
type Node struct {
	Name string
	Zone string // label topology.kubernetes.io/zone; empty: unknown
	// NodePortAddrs are the node's addresses at which node ports answer, of both families.
	NodePortAddrs []netip.Addr
	Scheduler     Scheduler // of Services that choose none
	ProxyName     string    // Services whose service-proxy-name differs are not ours; empty for the usual ones
}

// Service is what one Service means on this node. It is never changed after it was made.
type Service struct {
	Name      store.ObjectName
	Frontends []Frontend // in a fixed order
	// HealthCheck is what the Service's health check node port answers; nil when it has none.
	HealthCheck *HealthCheck
	// Addrs are the addresses beyond the node's own that the Service answers at, to be announced by routing.
	Addrs []Address
	// Warnings say what is wrong with the Service's objects and what came of it, one clear sentence each.
	Warnings []string
}

// Kind says what a frontend's address is.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	NodePort
	ExternalIP
	LoadBalancer
)

// FrontendKey is what a client sends to.
type FrontendKey struct {
	Addr     netip.Addr
	Protocol store.Protocol
	Port     uint16
}

// Frontend is an address and a port at which a Service answers, and who answers there.
type Frontend struct {
	FrontendKey
	Kind     Kind
	PortName string // of the Service

	// Endpoints are who answers to clients, in an order that does not change while the endpoints don't. Frontends of one Service
	// share slices: they are not to be changed.
	Endpoints []Endpoint
	// Inside are who answers to clients inside of the cluster, pods and the node itself, when that differs from Endpoints: at an external
	// address with externalTrafficPolicy Local, clients inside get what the ClusterIP would give. Nil: no difference.
	Inside *Backends

	Masquerade Masquerade
	// Empty says what becomes of clients when there is no endpoint.
	Empty Empty
	// Allowed are the clients' networks; nil: every client. Others are dropped. Networks of the other family are left out, so the slice
	// can be empty: nobody.
	Allowed   []netip.Prefix
	Affinity  time.Duration // a client gets the same endpoint for that long after its last connection; 0: no affinity
	Scheduler Scheduler
}

// Backends are endpoints, and what becomes of clients when there are none.
type Backends struct {
	Endpoints []Endpoint
	Empty     Empty
}

// Endpoint is where connections are sent.
type Endpoint struct {
	Addr   netip.AddrPort
	Local  bool   // on this node
	Weight uint32 // at least 1
}

// Masquerade says whose connections get the node's address as their source.
type Masquerade uint8

// The ways to masquerade. In every case a connection that comes back to its own client is masqueraded.
const (
	// MasqueradeNever keeps the client's address.
	MasqueradeNever Masquerade = iota
	// MasqueradeOffCluster is for clients whose address is no pod's: their replies might not come back by this node.
	MasqueradeOffCluster
	// MasqueradeAlways is for external addresses, where an endpoint on another node would reply past this node.
	MasqueradeAlways
)

// Empty says what happens without endpoints.
type Empty uint8

// What can happen.
const (
	Reject Empty = iota // ICMP port unreachable
	Drop                // other nodes may have endpoints: the client, or its load balancer, is to try there
)

// Scheduler is a way to choose among endpoints, by the names that users of IPVS know.
type Scheduler string

// The schedulers.
const (
	Random           Scheduler = "random" // each connection by chance, weights count
	RoundRobin       Scheduler = "rr"
	WeightedRR       Scheduler = "wrr"
	SourceHash       Scheduler = "sh"  // by the client's address
	DestinationHash  Scheduler = "dh"  // by the address that the client sent to
	Maglev           Scheduler = "mh"  // consistent hash of the client's address and port (Eisenbud et al., NSDI 2016)
	LeastConnections Scheduler = "lc"  // fewest connections for its weight
	ShortestDelay    Scheduler = "sed" // fewest connections, counting the one to come, for its weight
	NeverQueue       Scheduler = "nq"  // an idle endpoint, else as sed
)

// Schedulers are all there are, the default first.
func Schedulers() []Scheduler {
	return []Scheduler{Random, RoundRobin, WeightedRR, SourceHash, DestinationHash, Maglev, LeastConnections, ShortestDelay, NeverQueue}
}

// HealthCheck is what a load balancer asks the health check node port for.
type HealthCheck struct {
	Port           uint16
	LocalEndpoints int // usable endpoints on this node
}

// Address is an address of a Service that can be announced.
type Address struct {
	Addr  netip.Addr
	Kind  Kind // not NodePort
	Local bool // only nodes with local endpoints are to announce it (externalTrafficPolicy, or for a ClusterIP internalTrafficPolicy, Local)
	Ready bool // this node has an endpoint for it: local ones only when Local
}
