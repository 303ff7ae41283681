// Package peers answers what the datastore has of the cluster's nodes, and what this node's kernel holds for one of them.
//
//	store.NodeLister ──────────────► List ──┐
//	node.Wanted: what should be ──┐         ├──► twillctl node, by way of package api
//	kernel: what is ──────────────┴► Held ──┘
//
// A question walked through: twillctl node node2 on node1. node2's lease is looked for among those that the last sync was for,
// and, as a vxlan lease does not bear a name, in the datastore. Of the fragments that the last sync was for, those that lead to its subnets are compared with the kernel's routes, neighbours and forwarding entries, read at that
// moment. A route that leads elsewhere shows up as one that differs; one that another program put in the place of ours as missing.
package peers
