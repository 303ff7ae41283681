// Package check judges whether a host is fit for Twill, before twilld is installed and while it does not run. It is pure: package host looks, check judges,
// twillctl check prints.
//
//	host.Look ──► Facts: features, sysctls, links, chains, sockets, files ──Run──► Results: what was found, what it breaks, the command that mends it
//
// Each check has one rule (rules): it looks at one part of Facts and returns what it found. What could not be looked at makes "not looked at"
// of the checks that need it, never a guess.
//
// A host walked through that Docker was installed on: host.Look lists the chains, among them FORWARD of table ip filter, whose policy is to drop.
// The rule "foreign rules" sees a base chain at the hook forward that drops what it does not accept, and that is none of Twill's: an accept of
// Twill's could not save the packet, for each base chain has its own say. It says that pods do not reach other nodes, and `iptables -P FORWARD ACCEPT`.
package check
