// Package gobgp is the bgp.Speaker that runs inside the daemon: an adapter around the library github.com/osrg/gobgp/v4, and its only user.
//
//	Set(Instance) ── difference with what was set before ──> gobgp: peers, ranges, announcements, policies
//	                                                           │
//	Learned() <── table <── re-read of the prefixes in doubt <─┤ best-path events: marks
//	Settled(), log       <── sessions                        <─┤ state, End-of-RIB
//	Sessions(), Paths()  <── asked when somebody looks       <─┘
//
// A prefix that a neighbour announces: gobgp chooses the best paths and tells that the prefix changed; the event marks it. A few milliseconds later
// the loop in Run takes all marks at once, merges what it found out into the sorted table, and calls changed.
//
// An event tells which paths came or went, not which ones there are. So a marked prefix is in doubt, and read from gobgp's table. An event that
// is late, repeated or overtaken by another one does no harm then, since it says where to look and not what is there. One case needs no
// reading, which would hold up the library just when it has most to do: where the table has no route of the prefix and there was one event since,
// of one path that came, that path is all. Should gobgp's table have gone on meanwhile, an event of that is on its way, and puts the
// prefix in doubt (table.go).
//
// # What the library does not do
//
// Each of these is worked around here, and has a test:
//
//   - With graceful restart, the library keeps the routes of a neighbour that fell silent as it keeps those of one that restarts, and its
//     events do not tell the two apart. A neighbour to which it sent a NOTIFICATION is no restarting one: it is removed and added
//     again, which drops its routes (eviction.go).
//   - The loss of BFD during a restart of the neighbour is remembered and ends the next session. BFD sessions live in a server of their own, and what
//     their loss means is decided here (bfd.go).
//   - A path that comes back with this AS in its AS path, or one that it replaces, stays in use (RFC 4271, section 9.1.2, wants it out). Loops
//     are allowed in the sessions' settings and rejected by the first rule of the import policy instead (filter.go).
//   - The shutdown withdraws from each neighbour what the others announced; connections are cut first (hangup.go).
//   - An update that arrives while the session of another neighbour is becoming established may never be told to that one: where updates are passed
//     on, each neighbour is told everything again a moment after its session is up (retell.go).
//   - A password stays with the listener after its neighbour is deleted (peers.go).
//   - A neighbour of a range that announced too many prefixes may be back at once. It is left alone for a while, as a peer is (eviction.go).
//   - How many prefixes a neighbour is told is counted anew for each question, for long where there are many (tally.go).
//   - Restart deferral waits for dead neighbours for six minutes; here it ends after seconds (peerconf.go).
package gobgp
