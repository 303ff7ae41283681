// Package steer decides what endpoints weigh under the schedulers that go by connections: lc, sed and nq.
//
//	conntrack: open connections of each endpoint ──┐
//	                                               ├──> Weights ──> slots of the kernel's map (proxy/dnat)
//	arrivals, and how long connections last ───────┘
//
// The kernel chooses by chance among slots, and a controller sets how many each endpoint has, once an interval. So these schedulers are not
// exact for each connection, as IPVS is: they aim at the end of the interval. Weights fills up the endpoints with the fewest connections, as
// water fills the lowest places first, with as many connections as are expected to come and to stay. Where connections are shorter than the
// interval, hardly any stays, and the weights become those that the Service's author gave: what is open at the moment says
// nothing of who will be busy then, and to send everybody to the one who is idle now would overload it.
//
// What comes in bursts is expected to come again for a while. So that the first burst does not all go to the endpoint that is behind by one
// connection, at least as many are expected as there are endpoints.
//
// How balanced that is: with lasting connections, the counts differ by what chance does in one interval (the square root of an endpoint's
// arrivals in it), however long it goes on; with the scheduler random, the difference grows without end. An endpoint always keeps one slot,
// at most a sixteenth of its even share.
package steer
