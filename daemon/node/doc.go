// Package node is twilld's heart: it joins what the cluster says with what this node's kernel holds.
//
//	store.Watch ──► latest snapshot ─┐
//	kernel monitor ► Observe: drift ─┤                                   ┌─► subnet.env, plugins, conflist
//	uplink changed ──────────────────┼─► dirty ─► render State ─► Sync ──┤
//	resync timer, retry ─────────────┘                                   └─► status, metrics
//
// Everything that happens only marks the node dirty; one goroutine renders the whole desired State and hands it to the
// reconciler. Many events cost one sync, the order of events does not matter, and a missed one is mended by the next
// sync. Without events nothing runs but a resync every few minutes.
//
// # A node's start
//
// The network configuration is read, retried for as long as the datastore is away; until then nothing in the kernel is touched, so that
// a daemon that starts during an outage disturbs nothing. The uplink is found, the node registers and gets its subnets, and the first
// complete snapshot arrives. Then comes the first sync. When it succeeded, the files are written that let pods be
// attached, the conflist last, and the node is ready.
//
// # An event walked through
//
// Somebody deletes flannel.1. The kernel sends RTM_DELLINK, the monitor calls Observe, which says that this is news; the loop
// wakes up, renders the same State as before and calls Sync, which makes the device and all that was lost with it again.
//
// Time is the time package's; tests fake it with testing/synctest.
package node
