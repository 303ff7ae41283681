// Package view looks at all of a node's kernel that Twill has to do with, for people who look for a fault from afar:
//
//	kernel/linux: links, addresses, routes, neighbours ──┐
//	kernel/nft: Twill's tables as text ──────────────────┼──► View ──► twillctl sysdump
//	kernel/conntrack, /proc/sys ─────────────────────────┘
//
// It needs no daemon, so that the view of a node whose daemon is dead is the same. What cannot be looked at is named and does not keep the rest from being
// shown. It changes nothing.
package view
