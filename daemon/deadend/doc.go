// Package deadend keeps packets to announced addresses of Services from travelling in circles, with one nftables table. It is pure; kernel/nft brings the
// table into the kernel.
//
// A router sends this node all packets to an address that the node announces. Those to a port of the Service are translated at prerouting, and go
// their way to an endpoint. The others, to a port that nobody serves say, fit no route but the default, by which they would go back to
// the router, and come again, until their time to live is over:
//
//	router ──198.51.100.7:81──> prerouting: no such port ──> routing: default ──> forward: services-v4 ──> dropped
//	router ──198.51.100.7:80──> prerouting: to 10.5.1.9:8080 ──> routing: cni0 ──> forward ──> pod
//
// ClusterIPs are not in the table: the proxy refuses what it does not translate of them.
package deadend
