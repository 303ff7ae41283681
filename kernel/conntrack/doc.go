// Package conntrack removes entries from the kernel's connection tracking table, and marks them.
//
// UDP needs it: a client that keeps sending from one port keeps its entry alive, and the entry keeps sending the datagrams where
// they were sent before a host port or a service came, changed or went. TCP does not: a new connection has a new entry.
//
//	client ---- 192.0.2.1:53 (original tuple) ----> conntrack entry ---- 10.5.1.7:5353 (reply tuple) ----> pod that is gone
//	                        ^
//	                        FlushUDP(192.0.2.1:53): the next datagram goes through the NAT rules again
//
// A service loses one endpoint of many: Flush removes the entries that this endpoint answers, and leaves those of the others.
//
// A pod goes and another one gets its address: FlushAddrs removes all that is tracked of the address, so that nothing of the other pod passes
// as established.
//
// The kernel does the search: the request names the fields to be compared (CTA_FILTER, net/netfilter/nf_conntrack_netlink.c), and
// entries that match are removed as it walks the table. Nothing is copied to user space, however large the table is. There are
// two exceptions (beside FlushAddrs, which looks at all entries), in which the entries for the ports are listed, by the same filter, and removed one by one: kernels that can
// filter what they list (since 5.8) but not yet what they remove (6.1 cannot, 6.18 can), and single IPv6 addresses, which
// the kernel compares the wrong way round.
//
// Where it takes more than a comparison to say what is stale, Sweep asks for each entry of a protocol while the kernel lists them, and Each
// tells them to whoever counts connections. Both read a stream: however many entries there are, a page of them is in memory.
//
// A policy changes, and an established connection is not allowed any more. To remove its entry would not end it: the next packet, of
// either side, would make a new one, and the side that may open connections is asked only. Remark sets a bit in the mark of the
// entry instead, at which a rule drops the packets of both directions, and takes it back when the connection is allowed again.
//
//	client ---- packet ----> entry, mark 0x40 ----> rule `ct mark & 0x40 == 0x40 drop` <---- answer ---- server
package conntrack
