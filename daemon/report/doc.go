// Package report follows whether the node serves, and turns that into what Kubernetes is told of it.
//
//	Ready  nil for the first time ──────────────────────────────> Serving     the condition and the taint of the Node
//	Amiss  an error for a while ──> Event, Warning: NetworkNotReady, or the reason of a store.Trouble
//	       nil for a while ───────> Event, Normal:  NetworkReady
//
// It decides only, and keeps no more than what it has told; store/kube writes. Both questions are asked again and again, more often until the
// node serves for the first time, when pods wait for it: they cost two locks and no I/O, and who could tell of a change is many.
//
// Serving is never taken back. A daemon that is in trouble leaves the kernel as it is, so the pods of a node that served once have their
// network, and a taint would send them away. For the same reason Amiss is less than Ready: a datastore that is away is no trouble of this node, and
// 5,000 nodes would tell of it when it is back.
//
// A failure, walked through: somebody unloads a kernel module, and a sync fails. After patience, an Event says NetworkNotReady with the error's text.
// The text changes; that is in the log only. Half an hour later syncs succeed. After patience, an Event says NetworkReady. A failure that comes
// and goes faster than that is one failure.
package report
