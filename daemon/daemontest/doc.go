// Package daemontest runs parts of the daemon in tests, and looks at them from outside.
//
//	Source ──what the test tells──► the part under test, run by Start ──► kernel in memory (package kerneltest)
//	                                  │                  │
//	                                 Log              metrics, read by Figure
//	                                  └──── Until ───────┘
//
// A test of the service proxy tells its Source of a Service, which returns when the proxy has heard of it; with Until it waits for the proxy to
// have written it, and with Figure it asks how many syncs that took. When the test ends, Start's cleanup ends the proxy, and fails the test when
// that takes too long or tells an error.
package daemontest
