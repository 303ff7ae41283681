// Package kubenodes asks the twilld of each node of a Kubernetes cluster, from wherever kubectl works.
//
//	twillctl status --kubeconfig ...           API server            node
//	  api.Client ──HTTP──► Dial ──WebSocket──► pods/exec ──► twillctl relay ──► /run/twill/twilld.sock
//	twillctl connectivity              ───► pods/exec ──► a pod of its own, in a Workspace
//
// A daemon's socket is root's, on its node, and no port of the network leads there; who may exec into the daemon's pod may use it, and nobody else: so there
// is nothing to be configured, and no right to be given, that an administrator does not have already.
//
// A question walked through: List finds the pods of the DaemonSet by their label, and their nodes. Dial runs `twillctl relay` in the pod's
// container, which copies its standard input to the socket and the answer to its standard output; the HTTP client takes the two streams for a
// connection. The relay ends when either side closes.
//
// A Workspace is a namespace that one process has for a while. Making it is the lock; signs of life on it keep it, and without them the next process removes it.
package kubenodes
