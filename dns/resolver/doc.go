// Package resolver is a node's DNS server: it answers pods for the cluster's names from package zone, and asks other servers for all other names.
//
//	pod ── UDP, TCP ──> Server ── the cluster's? ──> zone.Zone
//	                      │  └──── any other ──────> cache ── not there ──> upstreams: --dns-upstream, or the host's resolv.conf
//	                      └── fit: the size that the client can take
//
// A question's way: the pod 10.244.1.5 asks 10.244.1.1, its gateway, for www.example.com. Only pods and the node itself are answered, so the
// address is looked at first. The name is none of the zone's and not in the cache; of several that ask for it at once one is sent on, as a question of
// our own with a number and a port that nobody can guess. The first upstream that gave an answer last time is asked; after 1.5 s, or when it fails, the
// next. An answer that was cut off is asked for again by TCP. It is remembered for as long as its records say (RFC 2308 for what does not
// exist), never longer, and given to all who asked, each in the capitals in which it asked.
//
// An answer that is too large for the client's UDP loses what only saves a question (the additional section), then whole sets of records, with the
// TC bit, upon which the client comes back by TCP.
//
// What is not limited by the clients is limited here: questions under way to upstreams, connections, questions on one connection, the
// number and the size of remembered answers.
package resolver
