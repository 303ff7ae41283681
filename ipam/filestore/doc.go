// Package filestore keeps the leases of one CNI network in a directory and allocates addresses from it, for any number of
// processes at once.
//
//	<dataDir>/<network>/
//	  lock                      flock(2) of every change; holds the id of the boot that the store belongs to
//	  leases/<container>:<if>   record of one owner: JSON with all its addresses      \  one file
//	  addresses/10.1.2.3        hard link to the record of the address's owner         > under
//	  addresses/fd00::3         and another                                           /  three names
//	  pending                   a record on its way in or out, only while something is changed
//	  slots/<first>-<last>      which address of a range to try next
//
// # Names decide
//
// An address is leased if its name is in addresses/, and to the owner whose name in leases/ is the same file. Making and removing a
// name is atomic in every file system, whatever becomes of contents: a record that was emptied or overwritten still says by
// its names whose it is and which addresses it holds. So its addresses stay taken, its owner can be released, and nobody
// else's lease is touched.
//
// # An allocation, and a kill at any step
//
// Allocate finds a free address for each range set, writes the record as "pending", marks the slots, links the addresses to the
// record, and renames it to its owner's name. The rename commits. Release renames the record back to "pending", frees slots
// and addresses, and removes it. Whoever takes the lock next and finds "pending" does the rest of a Release: that undoes an
// Allocate that did not come to its rename, and ends a Release that did. There is no other case, so one short function
// (settle) is the whole of crash recovery, and both families of a lease come and go together.
//
// # Slot tables are advice
//
// A slot table remembers for a range which addresses were never leased and in which order the others were released: a
// queue through fixed-size slots. The next address is the first that was never leased, else the one released the longest ago. That takes a
// fixed number of small reads and writes, however many leases there are. With a single range it is also all there is to
// quarantine, since an address that is still resting comes up only when no rested one is left. With several ranges in a set,
// quarantine decides between them: a rested address of a later range goes before a resting one of an earlier range.
//
// A table is never believed against a name: an address it offers is skipped when its name is taken. Each change is wrapped in
// a dirty mark; a table that is missing, cut, dirty or contradicts itself is built anew from the names. An address that
// a table lost costs only room until then, and before a range is reported exhausted its table is compared with the names, at most once
// a minute. Retain goes through all tables, slot by slot. A table covers the first 2^20 addresses of its range, so that an IPv6 /64 works like any other; addresses
// beyond it can be requested.
//
// Why not a slot table alone, with a journal? Then a lost or damaged table would have to be believed or every record read;
// and why not names alone? Then finding a free address would mean listing them.
//
// # Crashes of the machine
//
// Nothing is ever synced to disk, because no lease outlives a boot: a boot ends every network namespace, and with them every
// owner. The first call after a boot finds another boot id in the lock file and empties the store, whatever a power cut
// left of it. On tmpfs, the default, there is nothing left to empty.
//
// # Locking
//
// Reads (Lookup, Leases, Status) take no lock. Changes wait in flock, in the kernel's queue, and hold the lock for some 50
// microseconds. A waiter whose context ends gives up with ipam.ErrBusy.
package filestore
