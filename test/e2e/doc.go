// Package e2e tests Twill from outside: the built programs, in labs of network namespaces, with packets, and read with tools that
// are not Twill's own (ip, bridge, nft, conntrack).
//
//	TestMain ── programs: TWILL_BIN (default ../../bin, built when missing), TWILL_PEERS (default ../../.cache/peers)
//	   │
//	   ├── each test: up(t, lab.Options{...}) ── a lab of its own ── packets, injuries, faults ── removed in t.Cleanup
//	   │
//	   └── at the end: no namespace, process, mount or directory of this run is left
//
// Labs are named after the process and counted, so that two runs can share a machine. Nothing waits for a fixed time: within polls a
// condition until its deadline. Tests that measure times run one after the other, the others in parallel. What the suites below this folder
// share is in package harness.
package e2e
