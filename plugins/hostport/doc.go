// Package hostport turns a pod's port mappings into nftables: a table of a few fixed rules, and map elements that say which port leads to
// which pod. It decides only; package twill writes the elements through kernel/nft.
//
//	table inet twill-hostports
//
//	 prerouting, output   daddr local? --> ports
//	 ports                dnat to  daddr . proto . dport  map @addr_ports4    one address of the node
//	                      dnat to          proto . dport  map @ports4         all addresses         (and the twins for IPv6)
//	 postrouting          masquerade what would not find back (below)
//	 guard                drop what pods send to, or as, localhost
//
// An ADD is one transaction with one element for each mapping and IP version. The rules do not grow with the pods, and a lookup is a hash
// however many there are. The kernel refuses an element whose key is there with another value, so two pods cannot get one port,
// however they race, without any list or lock of ours.
//
// # A connection
//
// From outside to 192.0.2.1:8080: prerouting finds the address to be the node's and jumps to ports; the map leads to
// 10.5.1.2:80; the packet is routed to cni0. The pod sees the client's own address. The answer goes by the node, since that is the
// pod's gateway, and connection tracking puts 192.0.2.1:8080 back.
//
// # What is masqueraded, and why
//
//   - A pod that reaches its own host port: it would get a packet from its own address, which it drops.
//   - A pod that reaches another one's host port on the same bridge: the answer would go straight over the bridge, past the node, and come from
//     an address that the client never asked. With br_netfilter (bridge-nf-call-iptables) bridged packets do pass connection tracking; then
//     the packet never meets the routing code, the rule does not see it come and go by the same link, and is not needed. A
//     bit of the packet mark (Mark) keeps the rule from touching what others, such as a Service proxy, have led there.
//   - The node itself by way of 127.0.0.1: the pod cannot answer to a loopback address.
//
// # localhost
//
// The kernel neither sends packets with a source of 127.0.0.0/8 by a link nor takes them from one, unless route_localnet is set on it. It is
// set on the bridge alone, and only when a pod with a host port has come. By itself that would let pods, which may send what
// they like, reach services that listen on the node's 127.0.0.1 and trust it (CVE-2020-8558). The chain guard, at the raw priority and
// so before any translation, drops packets from the bridge to or from 127.0.0.0/8; answers to the node's own connections pass it, since
// at that point they are still addressed to the masquerading address. The guard is in the same transaction as the first
// element and therefore there before route_localnet is set.
//
// A port on 127.0.0.1 is for the node alone, too: prerouting leads nothing that arrives for 127.0.0.0/8. A machine on the same link
// may send such packets, and translation comes before the kernel's own check of loopback addresses.
//
// IPv6 has no route_localnet: ::1 leads to the node itself.
package hostport
