// Package attach carries out the verbs of the CNI specification, version 1.1: it decides what is done in which order, and what
// is undone when that fails. It does nothing itself. Kernel, records, addresses and host ports are interfaces, so that every fault
// at every step is tested in memory.
//
//	            Plugin
//	  Add Del Check GC Status
//	   |      |      |      |
//	Records  IPAM  Kernel  HostPorts        record/  ipam/ or delegate/  kernel/podnet  kernel/nft
//
// # An ADD
//
//	record      what is going to be made: names of links, host ports
//	lease       addresses; they go into the record
//	bridge      made or repaired; it stays
//	pair        veth, host end on the bridge and down
//	shaping     if asked for
//	up, pod     both ends up; addresses and routes of the pod
//	host ports  if asked for
//	announce    neighbours learn where the addresses are
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
// # Several at a time
//
// ADDs of different attachments run side by side. For one attachment the runtime calls one verb at a time; since runtimes kill
// what takes too long and call DEL, an ADD holds a lock on its record, and a DEL that finds it locked asks to be called again (code 11). A
// GC waits for the ADDs that run and holds up those that come, so that what it takes for garbage is garbage.
package attach
