// Package outage watches without a pause whether pods reach each other, and says for how long they did not while something was
// changed.
//
//	Paths(lab) -> Start: an echo request on each path every 20 ms ──► outcomes ──► Window(since): lost, longest gap, by path
//
// The gap of a path is the time from the last request that was answered before a loss to the first one after it: an upper bound of how
// long no packet got through, which is long by one interval. A path that lost nothing has none.
package outage
