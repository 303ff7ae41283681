//go:build linux

// Command twill is the CNI plugin: it attaches pods to the bridge of their node. A runtime starts it for each call, with the verb in the
// environment and the network configuration on standard input, and reads a result or an error object from its standard output.
//
//	runtime --CNI_COMMAND=ADD, netconf--> skel --> main.go --> attach.Plugin
//	                                                             |-- record.Store     files below runDir
//	                                                             |-- localipam        addresses, in this process
//	                                                             |   or delegate      addresses, from another plugin
//	                                                             |-- podnet.Handle    rtnetlink
//	                                                             |-- portmap.Ports    nftables, conntrack
//	                                                             '-- gate.Question    the daemon, where it enforces policies
//
// This package is the wiring. It opens what a call needs and no more (no nftables socket without host ports), turns errors into the
// specification's codes (errors.go), and has no state.
//
// The program is small and imports little on purpose: it starts and ends once for each pod, and its start is a third of what an ADD
// costs. An ADD runs no program and waits for nothing, but where twilld enforces policies: there it asks the daemon over a socket of the run
// directory when a pod has its addresses, and waits for the answer when all else is done (gatekeeper).
package main
