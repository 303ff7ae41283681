// Package kubeends is a Kubernetes cluster as package connectivity sees it: pods of the test's own, reached through the API server.
//
//	Open   what the daemons say is on ─► two pods a node ─► an agent in each ─► their Services ─► connectivity.Topology
//	Ask    API server ──pods/exec──► twillctl agent ask, in the pod ──► pods, nodes, Services, name servers
//	Close  the namespace, with all that is in it
//
// The pods run the image of the daemon, which each node has already, by way of the scheduler, as any pod does. They have no capability, no user's rights, no token and nothing of
// the host's: the Pod Security Standard "restricted" is enforced in their namespace. Their readiness probe is what a node asks of a pod.
package kubeends
