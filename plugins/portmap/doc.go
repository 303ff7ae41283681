//go:build linux

// Package portmap brings the host ports of pods into the kernel: it writes the elements that package hostport makes of port mappings, and
// makes the kernel forget UDP flows whose way has changed.
//
//	attach.Plugin --Add, Remove, Check--> Ports --> kernel/nft        one element for each mapping and IP version
//	                                        '-----> kernel/conntrack  UDP flows to the port
//
// Any number of processes may do so at the same time: the kernel refuses an element whose key leads elsewhere already, and a removal looks
// first where the port leads. Package daemon/attachments keeps in place what was added here.
package portmap
