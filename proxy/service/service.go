package service

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/twill-cni/twill/store"
)

// Node is what the meaning of a Service on a node depends on. It is never changed after it was made.
type Node struct {
	Name string
	Zone string // label topology.kubernetes.io/zone; empty: unknown
	// Addrs are the node's primary addresses, one of each family that it has. A client on the node itself usually has one of them.
	Addrs []netip.Addr
	// NodePortAddrs are the node's addresses at which node ports answer, of both families.
	NodePortAddrs []netip.Addr
	MasqueradeAll bool      // every connection to a ClusterIP is masqueraded, not only those from off the cluster
	Scheduler     Scheduler // of Services that choose none
	ProxyName     string    // Services whose service-proxy-name differs are not ours; empty for the usual ones
}

// Service is what one Service means on this node. It is never changed after it was made.
type Service struct {
	Name      store.ObjectName
	Created   time.Time  // the older of two Services that claim one frontend has it
	Frontends []Frontend // sorted by FrontendKey.Compare; no key is there twice
	// HealthCheck is what the Service's health check node port answers; nil when it has none.
	HealthCheck *HealthCheck
	// Addrs are the addresses beyond the node's own that the Service answers at, to be announced by routing; sorted, none twice.
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

// Compare orders keys by address, then by protocol, then by port.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Port, o.Port))
}

// String returns, for instance, "TCP 10.96.0.7:80".
func (k FrontendKey) String() string {
	return k.Protocol.String() + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// Frontend is an address and a port at which a Service answers, and who answers there.
type Frontend struct {
	FrontendKey
	Kind     Kind
	PortName string // of the Service

	// Endpoints are who answers to clients, sorted by address and port, none twice. Frontends of one Service share slices: they are
	// not to be changed.
	Endpoints []Endpoint
	// Inside are who answers to clients inside of the cluster, pods and the node itself, when that differs from Endpoints: at an external
	// address with externalTrafficPolicy Local, clients inside get what the ClusterIP would give. Nil: no difference.
	Inside *Backends

	Masquerade Masquerade
	// Empty says what becomes of clients when there is no endpoint.
	Empty Empty
	// Allowed are the clients' networks, masked, sorted, none twice; nil: every client. Others are dropped. Networks of the other
	// family are left out, so the slice can be empty: nobody.
	Allowed   []netip.Prefix
	Affinity  time.Duration // a client gets the same endpoint for that long after its last connection; 0: no affinity
	Scheduler Scheduler

	// ResetConnections: TCP connections to an endpoint that is gone are to be reset.
	ResetConnections bool
	// Draining are endpoints beyond Endpoints that may go on with the connections that they have: they serve, but other endpoints are chosen,
	// or, of TCP, they terminate. Sorted by address and port. Only where somebody wants to know it: with UDP, and with ResetConnections.
	Draining []netip.AddrPort
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
	Weight uint32 // 1 to MaxWeight
}

// Masquerade says whose connections get the node's address as their source.
type Masquerade uint8

// The ways to masquerade. In every case a connection that comes back to its own client is masqueraded.
const (
	// MasqueradeNever keeps the client's address: an external address with externalTrafficPolicy Local. Only the node's own connections
	// are masqueraded there. Their source can be the very address that they go to (kube-proxy's short-circuit of local traffic), which
	// an endpoint elsewhere would reply to elsewhere.
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
	LocalEndpoints int // ready endpoints on this node, each pod counted once; one that only terminates does not count
}

// Address is an address of a Service that can be announced.
type Address struct {
	Addr  netip.Addr
	Kind  Kind // not NodePort
	Local bool // only nodes with local endpoints are to announce it (externalTrafficPolicy, or for a ClusterIP internalTrafficPolicy, Local)
	// Ready: this node has an endpoint for it. When Local, a ready one on this node; one that is terminating counts only while there is no
	// ready one on any node, for then it is the last to answer.
	Ready bool
}
