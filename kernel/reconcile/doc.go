// Package reconcile makes a kernel hold a desired state with the smallest set of changes, in an order that never routes
// a packet to where it cannot go. It is pure: the kernel is an interface, nothing here needs Linux.
//
//	State ──► fragment walk ──► trackers ──► phases ──► kernel.Kernel, kernel.Tables
//	          (by pointer)      desired/       │
//	                            actual/        │ dumps, where a kind is dirty
//	Event ──► Observe ────────► pending  ◄─────┘
//
// One tracker per kind (FDB entries, neighbours, routes) holds for each object what is desired, who claims it and
// what the kernel has, as pointers: what is desired points into the fragment that says so, and an object that the
// kernel holds as desired is stored once. What differs waits in the tracker's queue. So a Sync costs a comparison of
// pointers for each fragment, and work only for those that changed.
//
// # Phases
//
//	links ► FDB ► neighbours ► routes ► tables ► stale routes ► stale neighbours ► stale FDB ► stale links
//
// Objects are made in the order in which they rest on each other and are removed in reverse. When an upsert fails,
// what rests on it is held back: the neighbours and routes of a fragment whose FDB entry was refused, all that lives
// on a link which could not be made. When a route could not be moved or removed, the neighbour and the FDB entry that
// it still uses stay. All of it is tried again at the next Sync.
//
// # A change by somebody else
//
// `ip neigh del` on flannel.1 makes the kernel send RTM_DELNEIGH. Observe finds that the tracker believes the entry
// to be there, marks neighbours dirty and returns true; the caller runs Sync with the same State; Sync finds every
// fragment pointer unchanged, dumps the neighbours because they are dirty, finds one pending and writes it. Our own
// writes come back as events too: the tracker was told of them before they were sent, so they agree with it and are
// no news.
package reconcile
