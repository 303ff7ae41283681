// Package trace breaks the network of a lab in many ways, one at a time, and checks that `twillctl trace` names the hop that is broken, fast.
//
//	inject ──► twillctl trace ──► undo ──► (at the end) twillctl trace: nothing is wrong
//
// The daemons are stopped meanwhile, since they would repair most of it before anybody looks. Only what they are asked about, Services and policies, is
// broken while they run.
package trace
