// Package masquerade says which connections get this node's address as their source, as one nftables table. It is pure; kernel/nft
// brings the table into the kernel.
//
// The cluster network is what pods have addresses of, a node's subnet is its share. Seen from one node, a connection goes from
// a row to a column, and a new one passes the table's only chain, hooked at postrouting, with its first packet; conntrack
// treats the packets after it, and the replies, likewise.
//
//	                       to this node's pods   to other nodes' pods         to the rest of the world
//	from this node's pods  as it is              as it is                     masqueraded
//	from other nodes' pods as it is              as it is; masqueraded if     masqueraded
//	                                             this node translated it
//	from all others        as it is              masqueraded                  as it is
//
// Why, cell by cell:
//
//   - Pod to pod keeps its source: network policy and logs are to see the pod. This holds too for a node that only routes
//     between two others.
//   - Pod to the world is masqueraded, since the world has no route to pods. The addresses of nodes are the world, also those of other
//     nodes. Multicast, broadcast, IPv6 link-local destinations and those that the operator exempts
//     are left alone.
//   - From elsewhere to another node's pod means a node port, a load balancer or this host itself. The other node would answer
//     directly, past the translation that was made here, or out of a link on which nobody expects it. With this node's address
//     as source, the answer comes back here. When a pod's connection was translated here (DNAT) and goes to a third node, the
//     same holds; when its own node translated it, the answer comes back there anyway.
//   - Anything to this node's own pods keeps its source: the answer passes this node in any case, and the pod sees the client's
//     address. A pod that reaches itself by way of a host port needs masquerading after all, but that is the business of
//     whoever made the port; leaving this chain leaves the connection to the other tables' chains.
//
// A packet's walk: a client 203.0.113.9 connects to port 30080 of this node, 192.0.2.1, whose subnet is 10.5.1.0/24. The service
// proxy's DNAT at prerouting chooses the pod 10.5.2.7 on another node; routing says flannel.1. At postrouting 10.5.2.7 is
// not in local-v4, 203.0.113.9 is not in local-v4 nor in cluster-v4, but 10.5.2.7 is in cluster-v4: masquerade. The source
// becomes flannel.1's address 10.5.1.0 and a random free port, the other node answers through the overlay, and conntrack turns
// source and destination back for the client.
//
// # Beside flannel
//
// flanneld's iptables rules decide the cells of the table above alike, with one exception: they masquerade what a node merely
// routes between pods of two other nodes. Its nftables rules take connections from outside to other nodes' pods out of the chain
// before the rule that would masquerade them, so that node ports of remote pods depend on the service proxy to do
// it. Both leave packets with the mark 0x4000 to kube-proxy; that is not needed here, since masquerading once is all that
// either would do, and the mark of a VXLAN packet's content does not make the outer packet match any rule. Ports are
// fully random, so that connections set up at the same time on different processors do not pick the same one (a loss of the
// first packet otherwise, and seconds of delay for DNS).
//
// IPv4 and IPv6 are the same rules in one table of family inet. Neighbour discovery is not tracked by conntrack and thus never
// masqueraded.
package masquerade
