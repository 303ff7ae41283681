// Package gate is the fixed part of the nftables table that enforces policies on a node: names, sets, base chains, and the rules that all pods share. The
// daemon and the CNI plugin agree on it; the daemon adds what policies say (package policy/filter, whose doc.go describes the whole table).
//
//	                        ┌── twill (CNI plugin): before a pod has its address, if there is no table yet
//	Config ──> Closed ──> kernel.Table ──┤
//	                        └── filter.Filter: with chains and elements, as the daemon writes it
//
// The table of Closed knows no pod, and an address of the node's networks that no pod is known to have is closed: it reaches nothing outside of the
// node and nothing but the node reaches it. A pod is open, as far as its policies go, from the moment at which the daemon enters its address
// into the local maps (egress4 and ingress4, egress6 and ingress6). So a pod is never open too early, whoever is late.
//
// The way of an address: 10.1.1.9 was pod a's, which is being deleted. The daemon sees that a's record is retired and removes what LocalKeys names. Pod b is attached
// with the address; its plugin asks (Ask), and sets b's link up when the daemon has answered "closed", or when it has removed the elements itself, which it does while it
// holds a lock against a daemon that is late (Hold). From then on b's packets find nothing in egress4 and 10.1.1.9 in node-pods4, and are refused, until the daemon has heard of
// b's labels, enters the address with b's policies, and answers "ready", with which the ADD ends. Package attach has the argument why this leaks nothing.
//
// What the daemon owes: it writes to the local maps while it holds the lock, and has read the records since it took it; only records that are complete, or
// whose ADD runs, count (record.Seen); "closed" means that no other pod's elements and no connections that are tracked from before are left of the addresses
// (conntrack.FlushAddrs is one way).
package gate
