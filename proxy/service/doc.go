// Package service says what Kubernetes Services mean on one node: at which addresses they answer, who answers, and what is done with a
// client's address. It is pure, and knows nothing of how packets are sent there; that is proxy/dnat's.
//
//	store.ServiceChanges ─┐
//	                      ├─> Tracker ── what changed? ──> Resolve, each Service alone ──> Claims, who has which frontend
//	Node ─────────────────┘                                                                   │
//	                                 proxy/dnat, health checks <── []Change{Old, New} <───────┤
//	                                 prefixes for bgp          <── Routes <───────────────────┘
//
// A Service of type LoadBalancer, port 80, node port 30080, address 203.0.113.5, with two endpoints of which one is on this node, means three
// frontends: 10.96.0.7:80, 192.0.2.1:30080 (the node's own address) and 203.0.113.5:80. With externalTrafficPolicy Local the latter two have
// one endpoint, the local one, and for clients inside of the cluster still both.
//
// The pod on this node is deleted. Its EndpointSlice comes with the endpoint terminating but serving; Tracker resolves that Service and no
// other. 10.96.0.7:80 has the other endpoint alone now. The external frontends keep the draining one, as it is the last one here, but the
// health check counts 0 and the address is announced no more, so that load balancers and routers turn to the other node. When the
// endpoint is gone the external frontends drop what still comes, and clients inside of the cluster notice nothing.
//
// Resolve looks at one Service alone, so that a change costs what the Service costs. What Services have to do with each other, two that
// claim one address and port, is Claims' business. Tracker feeds the one to the other. Their outcome depends on what stands, never on the
// order in which it came.
package service
