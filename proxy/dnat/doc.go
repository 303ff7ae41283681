// Package dnat turns what Services mean on this node into an nftables table, one of family ip and one of family ip6. It is pure: kernel/nft writes what it
// says.
//
//	service.Service --Table.Set--> plans     --Skeleton-->  kernel.Table        a few chains; changes when a plan comes or goes
//	                               slots     --Update---->  kernel.SetChange    elements of hash maps; all that usually changes
//	                               addresses -'
//
// # The table
//
// Rules say how an endpoint is chosen; they depend on plans. Who is chosen from is data: elements of hash maps, which cost the same to find and to change
// whether there are 10 Services or 50,000. K stands for a packet's destination address, protocol and port.
//
//	services           K                  -> plan            every frontend
//	inside             K                  -> plan            for clients inside of the cluster, where they have others
//	plans              plan               -> goto its chain  a part of the skeleton, as is inside-plans
//	endpoints          K . slot           -> address . port  slots of clients inside are apart from the others
//	slots              K . slot           -> member          frontends with affinity have these two
//	members            K . member         -> address . port  in the place of endpoints
//	affinity           client . K         -> member          written by packets, each entry with a timeout
//	cluster-addresses  address                               other ports are refused
//	hairpin            endpoint . itself                     this node's: masqueraded when they reach themselves
//	ranges             K . client's network                  loadBalancerSourceRanges
//	pods, node-pods, service-networks                        networks from the configuration
//
// A plan is a small value that has a text: `random-3-offcluster` chooses one of three slots by chance, and masquerades clients that are no pods. The text is
// the name of its chain, and a hash of it the number by which maps know it, so that a restarted daemon finds the same ones. All frontends with
// three endpoints and these properties share the chain, which leads to one that all plans share:
//
//	chain random-3-offcluster {
//	        ip saddr != @pods meta mark set meta mark | 0x00004000
//	        meta priority set numgen random mod 3 offset 2147483648 goto endpoint
//	}
//	chain endpoint {
//	        dnat ip to ip daddr . meta l4proto . th dport . meta priority map @endpoints
//	        meta priority set numgen inc mod 1 offset 2147483648
//	        dnat ip to ip daddr . meta l4proto . th dport . meta priority map @endpoints
//	        drop
//	}
//
// A slot's number has the highest bit set, so nft writes slot 2 as 8000:2, and that for clients inside as 8001:2. Chains of plans look into no large map,
// since the kernel walks through all of a map when a rule with it is made: a new plan costs the same whatever there is.
//
// Only round robin has a chain for each frontend, since each needs a counter of its own.
//
// # The way of a packet
//
// A pod, 10.1.1.9, opens a connection to 10.96.0.1:80, a Service with three endpoints.
//
//	prerouting  jump dispatch
//	dispatch    meta priority set K map @services    10.96.0.1 . tcp . 80 is there: the priority becomes the plan's number
//	            meta priority vmap @plans            goto random-3-offcluster
//	random-3-…  ip saddr != @pods                    a pod: no mark
//	            meta priority set numgen random …    chance says 2
//	endpoint    dnat to K . priority map @endpoints  10.96.0.1 . tcp . 80 . 8000:2 is 10.1.2.7 . 8080
//	routing     to 10.1.2.7
//	postrouting mark? not set. hairpin? 10.1.1.9 . 10.1.2.7 is not there. The source stays.
//
// These are three lookups, and only for the first packet; conntrack knows the others. A packet to 10.96.0.1:81 finds no plan, then its destination in
// cluster-addresses, and is refused: TCP with a reset, which a client on the same host heeds at once, others with an ICMP error. A packet to
// 10.96.0.2, which no Service has, is dropped for lying in service-networks.
//
// skb->priority serves as the variable: it has 32 bits, is nobody's on this stretch of the way (the packet's mark is), and ip_forward sets it anew. For
// packets of the node itself it is set back to 0 here.
//
// # Affinity
//
// A client with an entry in affinity goes to the member that it says, and the entry's time starts anew. When members does not know the
// member, the endpoint is gone: the entry is deleted and a slot is chosen, by the client's address, and remembered. When affinity is full, the same rules
// work without the memory: a client's address leads to the same slot as long as the endpoints don't change. A member's number comes from
// its endpoint alone, so entries stay right whatever happens to other endpoints.
//
// # Changes that packets do not notice
//
// When one of N endpoints goes, the one in the last slot takes over its slot, and the plan becomes the one for N-1: five elements with the removals, in one
// transaction. A packet that chose slot N-1 by the old rules and looks it up in the new map finds nothing; it takes slot 0. What still finds
// nothing is dropped and sent again, since it must not pass untranslated: conntrack would keep it so. That can happen to a packet on its
// way while a Service's affinity is switched on or off.
//
// Chains of new plans come before the elements that lead there, and go some time after the last one did (Table.Prune). Changes too large for one
// transaction are divided by Split so that each step is right.
//
// # Restarts
//
// A Table knows slots from history: they are a function of the endpoints and of the slots before. After a restart, the history is what the kernel
// holds: Table.Adopt reads plans, Table.Reset slots, and what is as it should be is not written. So a restart writes nothing, and one after
// changes writes those. The same comparison repairs what others changed (Table.Compare).
package dnat
