// Package config reads the file of --bgp-config and what the datastore's record of a node says of BGP.
//
//	file ── Parse ──> Config ─┐
//	record ─ ParseNode ───────┴─ Config.Node ──> Node: the settings of this node
//	password files ─ ReadPasswords ──> Passwords
//
// Parse checks everything once and tells everything that is wrong at once, each with its key, what it has and what it should have:
//
//	peers[1].ttlSecurity: have 300, want an integer from 1 to 254
//
// The document is taken apart by tables of keys (parse.go, peer.go, rule.go) over a few readers of values (value.go), so that a key, its
// limits and its error stand in one line. docs/bgp.md is the reference for its authors.
//
// One file serves a whole cluster: what differs between nodes is chosen by selectors over their names and labels. What a node's record says wins
// over the file. Passwords stand in files of their own, which Parse does not open, and are never printed.
package config
