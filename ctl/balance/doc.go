// Package balance shows what a Service does in a lab: a small server in every pod, clients in pods, on nodes and outside, and who answered
// whom.
//
//	servers in the pods <── Service web ── clients: a pod of each node, each node   at the ClusterIP
//	                                   └── a machine outside of the cluster         at each node's node port
package balance
