// Package proxy keeps the kernel in step with Services: it joins the source of Services, their meaning and the tables that they become.
//
//	store.ServiceSource ──changes──┐                         ┌──> dnat.Table (IPv4) ──┐
//	                               ├──> service.Tracker ──>──┤                        ├──> kernel.BulkTables
//	the host: addresses, networks ─┘    what Services mean   └──> dnat.Table (IPv6) ──┘
//	                                          │
//	                                          ├──> flusher: conntrack entries of endpoints that are gone
//	                                          ├──> checks: health check node ports
//	                                          └──> Announce: addresses for routing
//
// One goroutine does a sync at a time. A change costs what it changes: the Tracker resolves the Services concerned, the Tables say which
// elements differ, and these are written in one transaction a family. Everything is compared with the kernel at the start, after
// somebody else changed our tables, after a write that failed, and every SyncPeriod.
//
// An endpoint's way: its EndpointSlice arrives in Source's goroutine, which queues it and wakes the loop. The loop resolves its one
// Service; its table moves one slot and the number of slots, three or four elements; one sendto later packets go there. Then, off that
// path, conntrack forgets datagrams' flows to what was removed.
//
// Once a second, while there are Services with the schedulers lc, sed or nq, connections are counted in conntrack, and slots follow (package
// steer says how exact that is).
//
// Nothing is written before the source has told all that there is, and nothing is removed when the daemon ends: connections, old and
// new, go on while it restarts. The restarted one reads the kernel, adopts the numbers that it finds there, and writes the difference.
package proxy
