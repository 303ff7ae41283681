// Package path reads from the kernel of one node all that a packet between one of its pods and another address meets there. It changes nothing, and
// needs no daemon: what it says is what the kernel holds at this moment.
//
//	Query{Pod, Other} ──► Look ──► View
//	                                ├ Pod      link, address, route and gateway's neighbour inside of the pod
//	                                ├ Host, Bridge, Uplink, Overlay     links, up, MTU, addresses
//	                                ├ Out      the route of a packet from the pod: next hop, neighbour, FDB entry, underlay
//	                                ├ In       the routes of a packet to the pod, for each link by which it may come
//	                                └ Chains   nftables of others that may drop it
//
// Pod 10.244.1.2 sends to 10.244.2.2. Out asks the kernel as if the packet came in on cni0: "via 10.244.2.0 dev flannel.1". The neighbour
// 10.244.2.0 on flannel.1 has a MAC, the MAC's FDB entry an address of a node, and that a route: each is followed to the next until one is missing.
// What all that should be, this package does not know: daemon/trace compares it with what the other node says of itself.
package path
