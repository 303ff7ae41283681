// Package nft brings kernel.Table into the kernel's nf_tables over netlink and keeps it there. It is the only package that
// speaks to nf_tables, and it needs no nft program.
//
//	kernel.Table --encode--> image (desired) --.
//	                                            plan --> steps --Batch--> kernel: all or nothing
//	kernel ---------read---> image (actual) ---'                            |
//	   ^                                                                    |
//	   '--- Monitor: what others did to our tables ---- forget -------------'
//
// # One difference, one transaction
//
// An image is a table in the form in which netlink carries it: sets with their elements as byte strings, chains with their
// rules. Whatever has to happen (make a table, change one element, repair a rule that somebody removed, recognise
// everything after a restart) is the difference of two images, worked out by one function, plan, and committed as one
// nf_tables transaction, so that packets meet the old rules or the new ones and nothing else. Chains stay hooked and sets keep
// their elements unless their own shape changes. An element costs what an element costs, however large its set. Only a new
// interval set is filled in a transaction of its own before the one that brings it into use; see prepare for the kernel's reason.
//
// # How a restarted daemon recognises its tables
//
// By reading them. The alternative, a digest kept in the table's user data, would tell that the table once was right, not that
// it is: a rule added by hand leaves the digest in place. Reading needs care, since the kernel does not list a rule byte for
// byte as it was sent: it adds defaults and counters and orders attributes its own way. Therefore both what is sent and what
// is listed go through canonicalRule, which leaves out exactly that. What remains must be equal, so any edit shows.
//
// # Who else was here
//
// nf_tables numbers its states: each transaction of any program makes a new generation. A table is listed between two looks at
// the number, and the transaction planned from it carries the number along; the kernel refuses it (ERESTART) when somebody was
// faster, and it is planned anew. A SyncTables that finds the generation it left behind knows without listing that nothing
// changed. Since every program moves the number (kube-proxy does so all the time), a running Monitor replaces this test: it
// hears which tables others changed (its own Handle's transactions are filtered out by the sender's port id), and makes the Handle
// forget what it knew about just these.
//
// Sets marked Foreign belong to other writers, such as the CNI plugin, which enters host ports with AddElements from its own
// process. SyncTables makes the set and never looks at its elements.
//
// Policies have verdict maps of that kind, with an element for each pod of this node. There the plugin must not bring the table back to what it knows
// of it, which is that a new pod is closed: it makes the table that is missing (EnsureTable), adds its elements (InsertElements), and leaves it to the
// daemon where the verdicts lead.
//
// # Elements by the hundred thousand
//
// Sets marked Bulk hold what changes all the time: the endpoints of Services. SyncTables makes them and leaves them alone; their writer changes
// them with ChangeElements, which encodes each element into the buffer that is sent, some 45 bytes in 100 ns, and costs the kernel 2 µs an
// element. The writer knows what it wrote, and reads (Entries) when it starts, when a Monitor tells that somebody else changed the
// table, and when ChangeElements refuses a change with ENOENT or EEXIST. One case the kernel could not refuse: an element that is added to a set
// that somebody had removed and SyncTables has made again fits well, only that the others are missing. So the Handle refuses to change a
// set that it has made until it has been listed.
//
// # Why not all of google/nftables
//
// Rules are made of the expressions of github.com/google/nftables/expr. Its Conn is not used: in version 0.3.0 every message is
// acknowledged and every rule echoed (two system calls each), an element list beyond 64 KiB is sent with a wrapped length, an
// error does not say which message it is about, and there is no generation number in a batch. Package nfnl does these four
// things; what is left for this package to encode are tables, chains, sets and elements, a few attributes each.
//
// # A host port's way
//
// The CNI plugin calls AddElements with one element for the map of host ports. planner.elements encodes it into one NEWSETELEM
// message; Socket.Batch sends it between a BEGIN and an END. The kernel has worked it off when sendto returns, and the
// acknowledgement is read. On a fresh host the answer is ENOENT instead: then apply lists what there is, plans the skeleton,
// appends the same message and commits all of it under the generation that was listed. Two plugins that do this at once
// differ in one thing: the second is refused with ERESTART, lists again, finds the skeleton and adds its element only.
package nft
