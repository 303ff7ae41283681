// Package nflog receives the packets that rules copy to an NFLOG group (kernel.Log), so that the daemon can tell people whose packets
// were refused.
//
//	rule `limit rate 100/second log prefix "egress" group 84 snaplen 128 ... drop`
//	   |
//	nfnetlink_log: metadata and the first 128 bytes ---- netlink ----> Reader.Run ----> Packet{egress, tcp, 10.5.1.7:40000 -> 10.5.2.9:80}
//
// A group has one reader in a network namespace; packets for a group without one go nowhere, at no cost. The kernel gathers what comes within a
// tenth of a second, up to 100 packets, into one datagram.
//
// # A burst
//
// What waits is bounded: by the limit of the rule, and by the socket's receive buffer, beyond which the kernel drops copies. It numbers
// them, so the next one that arrives tells how many were lost (Lost). Nothing is lost but the copy: the packet's own fate is the rule's business.
//
// # Why not github.com/florianl/go-nflog
//
// It would bring a second netlink socket beside that of package nfnl, which has the framing, the waiting and the cancelling already; what remains of it is
// two requests and six attributes. Version 2.2.0 also unbinds other loggers from their protocol families when it registers, leaves its
// goroutines running when the function that started them has returned, and allocates for each datagram anew.
package nflog
