// Package kerneltest is a kernel in memory for tests: Kernel stands for kernel.Kernel, Tables for kernel.BulkTables. It
// behaves as the real one does where that matters to a reconciler.
//
//	Apply... ──► validate ──► put / remove ──► violations ──► events
//	Put..., Delete..., SetDown (somebody else) ──┘
//
// Each change of an Apply call is a step of its own: it is validated, made, checked against the ordering invariants,
// told to the observer as a notification (the echo), and then the step hook runs, which may change the kernel behind
// the caller's back.
//
// What it knows of Linux:
//   - a route needs its links present and up, an FDB entry a VXLAN device, a neighbour a link;
//   - a link that is deleted takes its entries with it; one that is set down, or loses its last IPv4 address, takes its routes and
//     neighbours with it, the IPv4 routes without a notification (net/ipv4/fib_frontend.c, fib_disable_ip);
//   - a VXLAN device whose attributes differ is made again and is empty then;
//   - a table with a verdict to a chain that is not there, or a lookup in such a set, is refused whole; elements of Bulk sets are
//     checked against what there is, and a set that had to be made is empty;
//   - replacing an object by an equal one is notified, removing what is not there is not.
//
// An upsert of a route whose on-link gateway has no neighbour, or of a neighbour whose MAC has no FDB entry, works as
// it does in Linux and leaves a line in Violations, as does taking the neighbour or FDB entry away while it is in
// use.
package kerneltest
