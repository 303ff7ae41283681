// Package api is how people ask a running twilld: HTTP with JSON on a Unix socket in the run directory, which only root can open.
//
//	twillctl bgp ──> Client ──> /run/twill/twilld.sock ──> Server ──> bgp.Backend, bgp.Speaker
//
// It answers questions and changes nothing. It is no contract with other programs: twillctl and twilld of one release belong together.
package api
