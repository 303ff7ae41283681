// Package router is the lab's top-of-rack router: a BGP speaker in the underlay's namespace that any node of its subnets may
// connect to, and whose kernel routes by what the nodes announce. So pods of two subnets reach each other without encapsulation, as
// they would behind a switch that routes.
//
//	nodes ──sessions──► bgp.Speaker ──Learned──► one fragment a route ──► kernel/reconcile ──► kernel
//
// A node announces 10.244.5.0/24. The speaker tells that it learned something new, Serve renders the route via the node's address and
// syncs, and the router sends the packets of the other subnet's nodes there.
package router
