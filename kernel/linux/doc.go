// Package linux is the daemon's hand on the kernel: it reads and writes links, addresses, neighbours, FDB entries and
// routes over rtnetlink and sysctls under /proc/sys/net, and turns the kernel's notifications into kernel.Event.
//
//	                 Handle                                      Monitor
//	Links, ApplyLinks        Neighbors, FDB, Routes              kernel notifications
//	     │                   ApplyNeighbors, ...                      │ socket filter: our links, our routes
//	     ▼                        ▼                                   ▼
//	vishvananda/netlink      conn: one raw socket,               decode ──► kernel.Event
//	ioctl, sysctl            many messages a send
//	     └────────────┬───────────┘                                   ▲
//	                  ▼                                               │
//	          one network namespace, that of the thread which called Open
//
// Links are few and have many attributes: they go through the netlink library, one call at a time. Neighbours, FDB
// entries and routes come by the ten thousand and are all alike: they are encoded straight into one buffer (encode.go), sent
// many at a time (batch.go) and read back with filters that the kernel applies (dump.go).
//
// A new peer's way: ApplyFDB, ApplyNeighbors and ApplyRoutes are each called with one change. Each appends one
// request to the buffer, then an empty message that asks for an acknowledgement, and makes one send. The kernel has
// worked off the buffer when the send returns, so one read fetches the acknowledgement, and before it the error
// if there was one.
package linux
