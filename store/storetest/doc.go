// Package storetest holds what tests of and around datastores share.
//
//	Run     the contract suite: what store.Store promises, shown on a real datastore that the suite can stop, restart,
//	        compact and fill with garbage through a Harness
//	Store   a datastore in memory, for tests of packages that use one
//
// A datastore's way through it: its test passes Run a function that starts a fresh backend; each of the suite's tests gets
// its own, opens stores on it as nodes would, disturbs the backend, and waits with a deadline for what the contract promises.
package storetest
