// Command twill-ipam is a CNI plugin for address management (spec 0.3.0 to 1.1.0) under any main plugin, with the
// configuration keys of the reference host-local plugin. It puts the CNI protocol in front of package filestore; the main
// plugin twill calls that package itself and does not start this program.
//
//	runtime -> main plugin (bridge, ...) -> twill-ipam -> filestore: /run/twill/ipam/<network>/
//
// An ADD's way: the main plugin starts the program with the network configuration on standard input; the configuration is
// validated, one address of each range set is leased to CNI_CONTAINERID and CNI_IFNAME, and the result is printed.
//
// Error codes: 4 CNI_* variables; 5 disk; 6 not JSON; 7 configuration; 11 the store is locked; 50 STATUS found that an ADD could not be
// served; 103 no address is left, or the requested one is not to be had; 104 CHECK found no lease, or another than prevResult says.
// The last two are those of the main plugin twill.
package main
