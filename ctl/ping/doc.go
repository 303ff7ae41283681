// Package ping sends ICMP echo requests and counts the replies. A Conn belongs to the network namespace of the thread that opened it,
// wherever it is used later.
//
//	Listen    a raw socket of one family, or without CAP_NET_RAW one that net.ipv4.ping_group_range lets everybody have
//	Echo      one request: its round-trip time, or why there was none
//	Ping      a few requests, one after the other: the fastest, the mean
//	Stream    requests at a steady pace whatever becomes of them: what an outage costs, in packets and in time
//
// One goroutine reads the socket. A reply finds its request by identifier (one a Conn), sequence number and sender; an ICMP error
// finds it by the head of the request that it quotes.
package ping
