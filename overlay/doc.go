// Package overlay is the VXLAN backend: what a node publishes of itself, and what its kernel must hold so that pods of all nodes
// reach each other through a VXLAN. It is pure: leases and the uplink go in, links and fragments come out.
//
//	peer's lease                              this node's kernel
//	  Subnet        10.5.2.0/24      route     10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
//	  VtepMAC       02:..:02         neighbor  10.5.2.0 is at 02:..:02 on flannel.1
//	  PublicIP      192.0.2.2        fdb       frames to 02:..:02 leave in UDP to 192.0.2.2
//
// A packet to pod 10.5.2.7 takes the route to gateway 10.5.2.0, the neighbour entry gives the frame its destination
// address, the FDB entry names the node, and the VXLAN device wraps the frame and sends it over the uplink. Nothing is ever asked of
// or learned from the wire: all three entries come from the lease. With DirectRouting, a peer on the uplink's own network needs one route
// to its node address instead and no encapsulation.
//
// Two leases with one VtepMAC (a cloned device, a value written by hand) cannot both be served, since an FDB sends the frames for one address to
// one node. That with the smaller subnet is, on all nodes alike, and kernel/reconcile reports the other by name. The older lease would be
// the fairer choice, but a lease does not know its age, and the datastores do not count it alike. Such a pair takes a mistake: a
// device that is new gets an address from the node's name and its public address together.
//
// IPv6 has a device of its own, flannel-v6.<VNI>; both families are rows of one table (family.go) and share every line
// of code. Names, lease data and configuration keys are flannel's, so that flannel nodes and Twill nodes share a cluster.
package overlay
