// Package podnet is the kernel's side of attaching a pod: bridge, veth pair, the pod's addresses and routes, shaping. It is the only user
// of rtnetlink among the packages of the CNI plugin.
//
//	host's network namespace                     pod's network namespace
//
//	   cni0  10.5.1.1/24, MAC pinned
//	    |  port: hairpin, no IPv6 address
//	   veth...  "twill-pod <id>/<if>"  ========  eth0  10.5.1.2/24, default via 10.5.1.1
//	    |  tbf: what goes to the pod
//	    '- ingress, u32, mirred --> ifb-...  tbf: what comes from the pod
//
// # An attachment, message by message
//
// A pod is attached by one process that lives for a few milliseconds, so what counts are round trips and what the kernel does in
// them, not elegance of the client. Batches go out in one system call; rtnetlink works them off before sendto returns.
//
//	find cni0                                                             EnsureBridge
//	[ MTU, up if they differ ] add each gateway address (EEXIST is fine)
//	new veth: names, MACs, MTU, bridge, pod's namespace                   CreatePair
//	alias, hairpin, no address generation
//	( tbf, ifb, redirection )                                             Shape, if asked for
//	( forget whom the host looks for by the pod's addresses )             DropQueued, if there are policies
//	host end up                                                           UpPair
//	find eth0; addresses, up, routes                                      ConfigurePod, in the pod's namespace
//	find host end; find cni0, make the pod its neighbour                  Announce
//	find eth0, set its MAC address to what it is; see its IPv6 routes
//
// The order is not free. The veth's ends get names and addresses at birth, so that neither udev nor a reader of the result sees them
// change. Qdiscs are attached while the link is down, because replacing one on a link that is up waits for RCU. The host end is up
// before the pod's, so that the pod's routes never see a link without carrier. Hardly anything waits: duplicate address detection
// is off (IFA_F_NODAD), the operational state is not polled, and Announce says how it does without packet sockets. It waits for one
// thing, that the kernel's work queue has put IPv6 addresses to use.
//
// # Whose is what
//
// A host link's alias (IFLA_IFALIAS) names its owner. Everything here that removes looks at the alias first, and leaves alone what is
// another's. The kernel cannot set an alias when it creates a link, so there is a moment in which a killed process leaves
// a link with a name derived from its owner and no alias; such a link counts as the owner's.
//
// # The pod's namespace
//
// Sockets belong to the namespace that they were made in, for ever; /proc/sys/net shows that of the calling thread. The handle
// therefore moves one locked thread into the pod's namespace, makes a socket there once, works, and moves back.
package podnet
