// Package attachments looks after what the CNI plugin made for pods, between the plugin's calls: the plugin runs for milliseconds, and what
// happens to a pod's things afterwards is for the daemon to notice.
//
//	kernel's notifications ── Observe ──► dirty ──► host ports   nft elements against records, within a second
//	start, slow resync     ──────────────► marks ──► links        pods' host links that were set down
//	                                          └────► dead pods    leases, records and shapers that a lost DEL left
//
// It decides only; Host is what it reads and changes. That a port of the bridge is taken off it or loses its hairpin mode is mended by
// package kernel/reconcile, with the bridge.
//
// It has a goroutine of its own beside daemon/node's loop. What the two look after has nothing in common: here nothing depends on the datastore,
// so that host ports are put back and dead pods released also while a daemon waits for etcd, and a large sync of peers does
// not keep a port from being mended. Idle, the goroutine sleeps between two resyncs.
//
// # Host ports
//
// What should be is rendered from the records of attachments, what is there is read from the kernel, and both are in the hands of plugins that
// run at any moment. No lock keeps them out, since an ADD must not wait for a daemon. Three things make it converge instead:
//
//   - Order in the plugin: an ADD writes addresses and ports into the record, then adds elements, then completes the record. A DEL makes the
//     record incomplete, then removes the elements, and the record last.
//   - Order here: the elements are read first, then the records, and the transaction bears the number of the generation that the elements
//     are of. The kernel refuses it when any program committed anything in between; then everything is read again.
//   - Only complete records have missing elements put back; elements that belong to any record, complete or not, are left, and all
//     are while a record cannot be read or a pod's link has none, since they may be that pod's.
//
// An element that was read had its record written before, so its record is seen unless a DEL came in between, and then the element is
// gone anyway: a pod that is being added never loses a port. A port of a complete record is put back; should a DEL have begun since the records
// were read, it removes it again if it looks after the commit, and if it looked before, its record was incomplete before the commit. That is
// found out by the look that follows every change. The same look serves a pod whose ADD was running while somebody removed
// the table: it had added its ports and was not complete, so they are put back when it is.
//
// Every ADD and DEL with host ports notifies us. Notifications are gathered: the first is answered after 20 ms, the next no
// sooner than 200 ms later, and the answer to a table that is as it should be is one listing of it and of the records, without a change.
//
// The elements that name bridges stay for good: they are what keeps pods from the node's loopback addresses once route_localnet is set on the
// bridge (CVE-2020-8558), and they are put back while it is, even with no host port left.
//
// # Dead pods
//
// A runtime whose DEL was lost (it crashed, it was upgraded, its pod sandbox vanished) leaves a lease, a record and maybe an ifb device. They
// are released when the network namespace is gone (its path leads nowhere, or to another inode) and the host link is gone, and both
// were so in two looks that are Options.Delay apart and in all looks between. Names of pods and the Kubernetes API are not asked: they
// say what should run, not what uses an address.
//
// The second look and the release happen while the records are frozen: no ADD of the network runs, and none can begin. An ADD of the same id (a
// retry, a re-used id) is thereby either over, and has left another record or a living link, so that the pod is not what was seen
// before; or it comes afterwards and finds nothing. While ADDs run, freezing fails, and is tried again later. The release itself is
// the plugin's own DEL, which may run at the same time in the runtime's hands too.
//
// Looks happen at the start, with the slow resync, and some time after a pod's link vanished, which is what each normal DEL does too; between
// them nothing is polled. Only the daemon's own network is released: of others the daemon does not know where their addresses come from.
//
// A host link without a record is left alone and told in the log: one end of a veth pair does not outlive the other, so there is a living network
// namespace behind it, and probably a pod whose record was removed by hand.
package attachments
