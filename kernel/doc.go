// Package kernel is the vocabulary for what a Linux kernel should hold: links with their addresses, neighbours, FDB
// entries, routes and nftables tables. It is plain data. Nothing here does I/O and nothing here needs Linux, so that the
// packages which decide what a node should look like (overlay, daemon/masquerade, later bgp, proxy and policy) are pure
// functions that run and are tested anywhere.
//
//	overlay, masquerade, ...   snapshot -> State            (pure)
//	kernel/reconcile           desired vs actual -> changes (pure)
//	kernel/linux, kernel/nft   changes -> netlink           (the only code that touches the kernel)
//
// A peer's way through it: its lease becomes one immutable Fragment with a neighbour, an FDB entry and a route. The
// reconciler sees a new *Fragment pointer, works out three upserts and hands them to Kernel in the order FDB,
// neighbour, route, so that no packet is ever routed to a peer that cannot be reached yet.
package kernel
