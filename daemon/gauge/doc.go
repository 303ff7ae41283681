// Package gauge measures how well this node reaches each other node by the way that pods' packets take: the share of questions that get no answer, and
// the round-trip time.
//
//	this node's twilld                                             another node's twilld
//	  10.244.1.1:any ── route, neighbour, FDB, VXLAN or next hop ──► 10.244.2.1:10270   question, 1,024 bytes
//	                 ◄─────────────── the same, back ───────────────                    answer, shorter: who it is, whom it reaches badly
//
// The addresses are the nodes' own in their pod subnets, those of cni0, which the daemon keeps there in either backend. So what is measured is the
// tunnel, or the route that BGP has brought, and not the underlay: when somebody takes away a forwarding entry, the underlay answers pings, and
// this does not.
//
// It asks by UDP. Raw ICMP needs CAP_NET_RAW, which twilld does not have, and ICMP datagram sockets the host's consent
// (net.ipv4.ping_group_range). A node where nobody listens, since its twilld does not measure or it is flanneld's, refuses by an ICMP message that has come
// the whole way, too: that counts as reached, with its round-trip time. Every question has a socket, and so a port, of its own, and a nonce, so that
// nobody else's packet is taken for the answer, and the kernel says which question was refused.
//
// Who answers is nobody's amplifier: an answer is never longer than the question (1,024 bytes, all of which have to be there), goes only to addresses that
// leases say are nodes', and there are at most 2 in a second for each of them, 1,000 in all.
//
// Answers bring what the other node knows of nodes that it reaches badly, at most 32, the worst first. So each node has a picture of the whole cluster: up to
// 33 nodes a whole one, beyond of what is amiss. Nobody asks on somebody else's behalf.
//
// # Cost
//
// Each peer is asked in turn, once a second where there are up to 50; beyond, 50 a second are asked in all, evenly spread: with 5,000 nodes each every
// 100 seconds. There, who did not answer is asked again after a second, until it has answered or three questions in a row are lost; these questions are among the
// 50, of which they have half at most. So one of 5,000 nodes that fails is known to be down after a minute on average, 500 that fail at once
// are after some two minutes, and when all fail the last is after six.
//
// At most that is 50 questions out and about as many in, 110 kB/s with their answers in each direction, and less than 2% of a core (BenchmarkSecond). Of each peer the
// last 20 outcomes are kept, some 500 bytes; of what it says, in a cluster of more than 33 nodes only what is amiss. Round-trip times are taken in the daemon, so they
// have its scheduling in them and that of the other one, some tens of microseconds.
package gauge
