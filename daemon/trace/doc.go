// Package trace judges the way of a packet between two pods, or from a pod to an address, by what the kernels of the nodes at both ends hold, and by
// what a probe made of it. It is pure: kernel/path looks, ctl/probe asks, and twillctl puts them together; on its page,
// twilld does, for the ends that are its own.
//
//	Case{From, To, Source, Target, ...} ──► Judge ──► Result{Hops, Failure}
//
//	pod ─ veth ─ bridge ─ forwarding ─ service ─ policy ─ uplink ─ overlay ─ route ─ neighbour ─ fdb ─ underlay ─ mtu ┐
//	┌────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//	└ uplink ─ overlay ─ forwarding ─ arrival ─ policy ─ bridge ─ neighbour ─ veth ─ pod, and the replies' way back
//
// A device comes before the routes that use it: the kernel takes those away with it. What one node holds of the other is compared with what the
// other says of itself. In the neighbour table of node1, 10.244.2.0 has the MAC 7a:00:00:00:00:01, while flannel.1 of node2, which has that address, has
// 7a:00:00:00:00:02: the hop "neighbour" has failed, and its mend is the entry as it should be.
//
// A hop that is suspicious is none that must fail: a chain that drops what it does not know. It counts when the probe gets no answer and no hop
// has failed.
package trace
