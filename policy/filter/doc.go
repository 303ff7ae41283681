// Package filter turns policies into the nftables table that enforces them on this node. It is pure: kernel/nft writes what it says.
//
//	store.PolicyChanges --Apply-----> subjects  --Plan--> kernel.Table      chains of subjects, the local maps, ranges of addresses and ports
//	attachments ---------SetLocal--->  terms              kernel.SetChange  elements of hash maps; all that usually changes
//	                                  classes   --Allows, Explain--> what becomes of a flow, and why
//
// # The table
//
// One table of family inet. Package gate has its names and all that does not depend on policies; this package adds the rest. Only policies that
// select pods of this node count.
//
//	subject  what all policies of a local pod say in one direction; pods with the same policies share it
//	term     what a policy asks about the other end: pods with labels, a block, the number of a named port
//	class    an address's answers to all terms
//	ports    a set of ports that a subject leaves open for a class
//
// Each is known to the kernel by a number, a hash of its canonical text: what a number stands for never changes.
//
//	networks4      range of addresses -> class            blocks, divided so that no two ranges overlap
//	pods4          address -> class                       pods of the cluster whose class is not what networks4 says
//	egress4        local pod -> goto its subject's chain  also for pods without policies: goto open
//	ingress4       likewise
//	self4          local pod . itself                     a pod reaches itself
//	pairs          subject . class -> ports               what is not in it is the subject's default
//	ports, ranges  ports . protocol . port                the ports that are open, or all that are not
//	node-pods4     networks of this node's pods           who is in it and in no local map is closed
//
// A subject's chain, of which nft shows the policies' names as a comment:
//
//	chain ingress-2e5f5331 {
//	        jump source-class
//	        meta priority set numgen inc mod 1 offset 777999153 . meta priority map @pairs goto ingress-result
//	        goto refuse-ingress
//	}
//
// skb->priority serves as the variable. `numgen inc mod 1 offset N` is nft's way to write the constant N into a concatenation. All tiers, orders,
// names and ranges were worked off when the pair was made, as exact sets of ports: a packet costs the same whether a pod has one policy or a hundred.
// testdata/small.nft is a whole table.
//
// # The way of a packet
//
// Pod 10.1.2.2 on another node, with app=client, opens TCP 80 of 10.1.1.2 here, which has the policy shop/web of testdata.
//
//	forward         ct state new; not to itself
//	source          10.1.2.2 is not in egress4, nor in node-pods4: no policies of ours. Back
//	target          10.1.1.2 in ingress4: goto ingress-2e5f5331
//	source-class    10.1.2.2 in pods4: the priority becomes 1f8e:187, the class of "pods app=client of shop"
//	ingress-…       777999153 . 1f8e:187 in pairs: the priority becomes 33a8:e3de, goto ingress-result
//	ingress-result  not 1 (all); TCP has ports; the highest bit is not set, so what is listed is open
//	                33a8:e3de . tcp . 80 in ports: priority 0, return to forward, whose policy is accept
//
// To port 81 it finds nothing in ports and ranges: goto refuse-ingress, which tells the NFLOG group, counts, and drops. From 198.51.100.1, which is in no
// map, the class is 0, pairs has nothing, and the default comes: refuse-ingress. Packets of the connection that follow are established, and pass
// at the second rule, until the daemon sets the bit of the connection mark that the first one looks at.
//
// # Changes in several transactions
//
// A Plan is three steps, since Bulk sets and the rest cannot be written in one transaction: Before (Bulk), Table, After (Bulk). At each moment between any
// two SetChanges of it, a connection about which the policies say the same before and after is judged so:
//
//   - New ports, then pairs that lead to them, come first. Nothing leads there yet.
//   - Then, when there are new terms, addresses go to a transitional class: their old answers, with those to new terms. Old subjects do not ask
//     new terms, so they find what they found; pairs of the two are in the step before.
//   - Then the table: subjects, local pods and networks change at once, but for new chains and ranges, which kernel/nft writes in a transaction before (packets would
//     meet them a moment too late), and which nothing leads to yet. New subjects ask no terms that are on their way out, so they find in the
//     transitional class what they will find in the final one.
//   - Then addresses go to their final classes, and last what nobody needs is removed, pairs before ports.
//
// So any split is right that keeps the order of SetChanges and leaves each of them whole: one that moves an address removes and adds it, and between the two
// the address would have no class. Ranges of ports are in the table, not in a Bulk set; since they may still be reached until After is written, it is the next
// Plan that removes them. The exception is the plan that changes both what pods are and what policies ask: then an address
// may meet a new subject with old labels, as if it had been labelled a moment later.
//
// Two gaps are left. A packet that is between its look at pods4 and that at pairs in the very moment in which After is committed finds the default. And networks
// change in the Table's own transaction: that is exact as long as the kernel's interval maps go by generations, as those of Linux 6.18 do.
//
// The label of a remote pod is one element that is removed and one that is added, in pods4 and in pods6, when its new class is there already.
// Otherwise the pairs of the class come, too: one for each subject here that makes a difference for it. The last classes that nobody has any more keep
// their pairs, so a label that comes and goes costs that once.
//
// # What is closed
//
// An address of this node is open when an attachment says whose it is (SetLocal), and the datastore knows the labels of just that pod: the same name,
// and the same UID when both are known. Attachments go before the datastore, which may still tell of a predecessor: that one is not
// believed. Two attachments with one address close it. Elsewhere, several pods may claim an address; then it has to be allowed for each
// (policy.Claimants), which is a class with alternatives.
//
// # Restarts
//
// When policies changed while there was no daemon, the next one does not know what the kernel's numbers stand for that no policy gives any more. It need not: from
// Before to After an address of such a class has one of its own, with the pairs that the kernel has for the old class and the old chains, and those that the
// new chains have for the class to come (passages).
//
// Numbers come from texts, so a restarted daemon makes the same table. Compare finds out what differs in the Bulk sets, and SyncTables in the rest; without a
// change in between nothing is written, but that classes which nobody had are removed. Only where two texts had the same hash the numbers depend on which was first.
package filter
