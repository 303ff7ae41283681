// Package api is how people ask a running twilld: HTTP with JSON on a Unix socket in the run directory, which only root can open.
//
//	twillctl bgp     ──┐                                            ┌──> bgp.Backend, bgp.Speaker
//	                   ├──> Client ──> /run/twill/twilld.sock ──> Server
//	twillctl service ──┘                                            └──> proxy.Inspector ──> nftables
//
// It answers questions and changes nothing. It is no contract with other programs: twillctl and twilld of one release belong together.
package api
