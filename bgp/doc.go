// Package bgp is the routing backend: nodes tell each other over BGP-4 (RFC 4271) where their pods are, and packets travel without
// encapsulation.
//
//	config + leases ──Planner──> Instance ──Set──> Speaker ──sessions──> other nodes, reflectors, top-of-rack routers
//	                                                  │
//	       kernel <──node── Fragments <──Backend── Learned
//
// A packet to pod 10.5.2.7 takes the route 10.5.2.0/24 via 192.0.2.2, which this node learned from node 192.0.2.2 or from a reflector,
// and leaves the uplink as it is. The package is pure: it has the words for sessions and routes, and says what a node's kernel should hold
// for what it learned. Which sessions a node should have is bgp/topology's; the only speaker is bgp/gobgp; the configuration file is
// read by bgp/config.
//
// BGP's own work, choosing the best path, is the speaker's. What reaches the kernel is decided here: a prefix within the node's own
// pods, a next hop that is the node itself or that cannot be reached never does, whoever announces it.
package bgp
