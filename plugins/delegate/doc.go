// Package delegate runs another IPAM plugin for twill, when ipam.type names one. Section 4 of the CNI specification says how: the
// plugin is looked up in CNI_PATH, gets the main plugin's configuration on its standard input and the CNI variables in its
// environment, and prints a result without interfaces, or an error object.
//
//	twill --ADD, netconf--> host-local, dhcp, ...
//	      <--ips, routes, dns--
//
// This is the one place where twill runs a program, and only when it is told to. The library for it,
// github.com/containernetworking/cni/pkg/invoke, is not used: since version 1.3 it brings OpenTelemetry and net/http along, which
// would double the size of a program that starts once for each pod.
package delegate
