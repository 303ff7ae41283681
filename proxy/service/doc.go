// Package service says what Kubernetes Services mean on one node: at which addresses they answer, who answers, and what is done with a
// client's address. It is pure, and knows nothing of how packets are sent there; that is proxy/dnat's.
//
//	store.Service + its EndpointSlices + Node --Resolve--> Service: frontends with endpoints, health check, addresses to announce
//
// A Service of type LoadBalancer, port 80, node port 30080, address 203.0.113.5, with two endpoints of which one is on this node, means three
// frontends: 10.96.0.7:80, 192.0.2.1:30080 (the node's own address) and 203.0.113.5:80. With externalTrafficPolicy Local the latter two have
// one endpoint, the local one, and for clients inside of the cluster still both.
//
// Resolve looks at one Service alone, so that a change costs what the Service costs. What Services have to do with each other, two that
// claim one address and port, is Claims' business.
package service
