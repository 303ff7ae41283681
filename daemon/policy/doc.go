// Package policy enforces policies on one node: it joins the source of policies, the pods that are attached here and the table that both become.
//
//	store.PolicySource ──Flaws────┐                                          what is not understood is told
//	records of attachments ───────┼──> filter.Filter ──Plan──> kernel.BulkTables   Before, Table, After
//	the kernel: drift ────────────┘         │
//	                                        ├──> cutter: connections that are no longer allowed
//	CNI plugin's ADD ── gate.Serve ──────── ├──> waiters: "closed", "ready"
//	nflog: refused packets ──> drops ────── └──> who refused it, for the log and for people (Inspector)
//
// One goroutine does a sync at a time. A change costs what it changes: the Filter says which elements differ. Everything is compared with the
// kernel at the start, after somebody else changed the table, after a write that failed, and every few minutes. Nothing is written before the source has
// told all that there is, and nothing is removed when the daemon ends: the table goes on enforcing while it restarts, and the restarted one
// finds the numbers that its predecessor used, and writes the difference.
//
// # A label that changes
//
// A pod on another node gets the label role=web, which a policy of a pod here asks for. The source's goroutine queues the pod and wakes the
// loop. The Filter gives the pod's address another class: one element of one set, written in one sendto. From then on its new connections are
// accepted. A pod that loses the label has connections that are accepted already, which no rule asks about again; so the cutter lists what is tracked, asks the
// Filter about each connection of a local pod, and marks those that are not allowed. Their packets are dropped in both directions. Deleting the
// entry would not do: the server's next packet would begin a connection the other way round. A connection that is allowed again loses the mark.
//
// # Pods of this node
//
// Which pods are here is what the CNI plugin's records say, ahead of the datastore: from when an ADD has got the pod's addresses to when a DEL begins. What
// labels they have is what the source says; where no Kubernetes API does, the records have them. As long as a pod's labels are not known, its addresses are
// closed, and so are addresses of the node's networks that nobody has.
//
// An ADD asks over a socket (package gate) how far the kernel is. It is told StateClosed when neither the table nor a connection has anything
// of the addresses' last owner, and StateReady when its own policies are in the kernel; then it lets the pod go. It waits for a look at all connections
// only if somebody had one of its addresses in the last few seconds (vacancies).
//
// When the daemon does not answer in time, the plugin itself takes what another pod left of the addresses out of the table. gate.Hold keeps it from doing so
// between a look at the records and the write that follows from it: it would be put back for a while.
package policy
