// Package topology decides which BGP sessions a node holds and what it says in them. It is pure: the same input in any order yields the same
// plan.
//
//	config, node record ─┐                    ┌─> Instance: sessions, filters, announcements
//	leases of all nodes ─┼─────── Make ───────┼─> LeaseData: what this node publishes
//	states of sessions ──┘                    └─> Rejects: whom it has no session with, and why
//
// Nodes hold sessions with each other (the mesh) unless route reflectors make that needless. A reflector publishes in its lease which nodes it
// serves, by names and labels; nodes publish the labels that matter for it. So both ends of a session, and every third node, come to the same
// result.
//
// # Make before break
//
// A node publishes which reflectors it hears: they have told it all they know (End-of-RIB), and had a moment more for what they learned
// meanwhile. A pair of nodes is covered when what one of them announces certainly reaches the other through reflectors:
//
//	a ── hears ──> r1                r1 == r2, or both reflectors hear each other
//	b ── hears ──> r2                and are of different clusters
//
// Only a covered pair does without a session of its own. When reflectors appear, the mesh stays until each pair is covered, and goes pair by
// pair. When they all die, no pair is covered and the mesh comes back at once; it needs no word of the datastore, since each node sees
// by itself that it hears none. A reflector that restarts gracefully is heard all the while, unless it stays away for half of the time for which
// its routes are kept; the mesh is there before they go. A node that alone lost its reflectors publishes it, and
// the others take up sessions with it. A node that is no reflector any more goes on serving those who hear it (Leaving), and they hear it until
// their mesh is complete.
//
// # What is exchanged
//
// Nodes take from each other the prefixes of pods, those that the configuration lets any node announce, and those under accept; nothing else,
// whatever a neighbour of one of them says. Peers that are not nodes hear what the node itself announces, and what export rules add. BGP's
// own rules, such as that a node does not pass on what it learned within its AS, are the speaker's.
package topology
