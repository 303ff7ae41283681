// Package status answers how a node is: it keeps what the daemon's parts tell, and asks the others when it is asked.
//
//	node.Report, Announcement, uplink ──told──► Collector ◄──asked── twillctl status, by way of package api
//	                                               │
//	                                               └──asks──► readiness, datastore, BGP, Services, policies, addresses, conntrack
//
// An answer is never an error. What cannot be found out is named in it: a node that is in trouble is the one that people ask about.
//
// A question walked through: an operator runs twillctl status on a node whose etcd is away. The Collector has the last sync's report, of which it
// tells the number of peers and of kernel objects; readiness says "datastore: ..."; the ranges of addresses are counted from the leases on
// disk, connections from two files of /proc. None of it waits for etcd.
package status
