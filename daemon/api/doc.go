// Package api is how people ask a running twilld: HTTP with JSON on a Unix socket in the run directory, which only root can open.
//
//	twillctl bgp ─────┐                                            ┌──> bgp.Backend, bgp.Speaker
//	twillctl service ─┼──> Client ──> /run/twill/twilld.sock ──> Server ──> proxy.Inspector ──> nftables
//	twillctl policy ──┤                                            ├──> policy.Inspector ─> nftables
//	twillctl node ────┤                                            ├──> peers.Inspector ──> datastore, kernel
//	twillctl sysdump ─┘                                            └──> Dump: settings, log, metrics, files, the kernel's view
//
// It answers questions and changes nothing, but that it can be asked to look for dead pods now rather than later. It is no contract with other programs: twillctl and twilld of one release belong together.
package api
