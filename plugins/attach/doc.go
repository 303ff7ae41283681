// Package attach carries out the verbs of the CNI specification, version 1.1: it decides what is done in which order, and what
// is undone when that fails. It does nothing itself. Kernel, records, addresses and host ports are interfaces, so that every fault
// at every step is tested in memory.
//
//	            Plugin
//	  Add Del Check GC Status
//	   |      |      |      |        |
//	Records  IPAM  Kernel  HostPorts  Gate      record/  ipam/ or delegate/  kernel/podnet  kernel/nft  policy/gate
//
// # An ADD
//
//	record      what is going to be made: names of links, host ports
//	lease       addresses; they go into the record
//	ask         the daemon, where there are policies; it works while the link is made
//	bridge      made or repaired; it stays
//	pair        veth, host end on the bridge and down
//	shaping     if asked for
//	closed      nothing that another pod left opens the addresses, or waits for somebody to have them
//	up, pod     both ends up; addresses and routes of the pod
//	host ports  if asked for
//	announce    neighbours learn where the addresses are
//	ready       the pod's policies are in the kernel, or two seconds have passed
//	commit      the record says "complete"
//
// A step that fails ends the ADD, and what was made is undone in reverse. A process that is killed undoes nothing; then the record
// tells a later DEL, GC or ADD of the same attachment what may be there. That is why it comes first, and why everything that is
// undone is checked to be the attachment's own: the record tells what was intended, not what was done.
//
// A DEL goes the same way back. It needs neither network namespace nor prevResult; without a record it goes by the names of
// the links, which are derived from the attachment, and removes the host ports that lead to the addresses of the lease. The lease is released last, after everything that uses its addresses is gone, and
// is kept when something could not be removed.
//
// # No leak at the start
//
// The table of package gate refuses what goes to or comes from an address of the node's networks unless the address is in its local maps, which the daemon
// writes. What could open a new pod too early is therefore what an earlier one with its address left, and that is of three kinds: an element of the local
// maps; a connection that is tracked, whose packets no policy is asked about; and packets that were let through for the earlier pod and wait in the kernel until
// somebody has the address. The first two are gone when Closed returns, the third is dropped after that (DropQueued), and only then can anything pass
// the pod's link. So it does not matter how the earlier pod went, nor what was killed when:
//
//   - DEL removes nothing of this. The daemon sees that the record is retired, which comes first, and closes the addresses while the pod still has them. A daemon that is
//     dead or slow closes them late; the next ADD of the address waits for it or does it itself.
//   - An address is leased to one attachment at a time, and a record is retired before the lease ends. So among the records that are complete, or of
//     an ADD that runs (record.Seen), only one has the address: a daemon that goes by these alone cannot take the earlier pod for the one that asks.
//   - A daemon that does not say "closed" may be about to write what it knew of the earlier pod. It reads the records and writes the maps while it holds a lock (gate.Hold),
//     and the plugin that does without it holds the same lock when it removes elements. Whoever wrote before is undone; whoever comes after has read
//     records in which the earlier pod is retired. A daemon that was stopped in between keeps the lock, and the ADD fails.
//   - An ADD that is killed leaves a link that is down, or one whose addresses are closed, or open by its own policies. The daemon sees the connection end, and that
//     the record is not complete.
//   - After a reboot there is no table, and the runtime may start pods before the daemon: the plugin makes the table. It does not make one that is there anew.
//   - CHECK, STATUS and GC have no part in it: whether a pod is open is for its policies to say, and the records that a GC removes are seen by the daemon.
//
// When Ready returns early the pod starts closed, and opens as soon as the daemon has caught up.
//
// # Several at a time
//
// ADDs of different attachments run side by side. For one attachment the runtime calls one verb at a time; since runtimes kill
// what takes too long and call DEL, an ADD holds a lock on its record, and a DEL that finds it locked asks to be called again (code 11). A
// GC waits for the ADDs that run and holds up those that come, so that what it takes for garbage is garbage.
package attach
