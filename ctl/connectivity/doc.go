// Package connectivity tests who reaches whom in a cluster, and who must not.
//
//	Topology: pods, nodes, Services, what is on ──Plan──► Cases ──Run──► Report ──► table, JSON, JUnit
//	                                                        │
//	                        Cluster: asks from inside a pod or a node, puts the policies in place
//
// What a cluster is, a lab or another, is for implementations of Cluster to know: package labends makes pods in a lab, package kubeends in Kubernetes. Objects are the Services and the policies
// that the test needs, for any of them.
//
// A test walked through: there are two pods on each node, one of the role client and one of the role server, each with a server that says its name, and a Service of
// its own. Before there are policies, every pod asks every other for its name, by TCP and UDP, at its address and through its Service (its own, too:
// hairpin), sends it the largest packet that the MTU lets through, looks its Service's name up, and asks nodes and the world outside. Clients, and in a lab
// somebody outside, ask at the nodes' own addresses, at node ports. Then the policies close the pods of the role server for all but clients, on one port, and let
// clients ask nobody but pods of the test and name servers. What is to be silent now counts only if it was reached before: that is each denied case's control,
// without which a dead network would pass. When the closed are silent, what the policies still allow is asked.
//
// What is programmed by somebody else, Services and policies, is asked again until the settling time is over, from the start of its phase. All else is asked once:
// a cluster is to work with the first packet.
package connectivity
