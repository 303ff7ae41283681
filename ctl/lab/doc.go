// Package lab makes a cluster on one Linux machine with nothing but network namespaces: the demo, the bed of the end-to-end tests and
// the rig of the benchmarks. twillctl lab is a thin skin over it.
//
//	                  namespace NAME-underlay
//	  etcd 172.30.0.1:2379 ── br0 ──┬───────────┬───────────┐
//	                              port1       port2       port3          veth pairs
//	                                │           │           │
//	namespaces NAME-node1 ...     eth0        eth0        eth0           172.30.1.1, 172.30.1.2 ...
//	                             twilld      twilld      twilld          the real daemon
//	                              cni0 ──┐    cni0        cni0
//	NAME-node1-pod1 ...                 eth0                             attached by the real plugin, through libcni
//
// With several subnets, each has a bridge, and the underlay's namespace routes between them; with Routing.ToR it does so by what it learns
// over BGP:
//
//	                 namespace NAME-underlay: router (AS 65000), etcd 172.30.0.1
//	      br1 172.30.1.254/24                          br2 172.30.2.254/24
//	    ┌───────┴───────┐                            ┌───────┴───────┐
//	node1 .1.1     node3 .1.2                    node2 .2.1     node4 .2.2          AS 64512
//
// SwitchRouting moves a lab that is up from VXLAN to BGP and back, node by node.
//
// Nothing in the machine's own network namespace is touched. Everything else is below /run/twill-lab/NAME, and that directory is also
// the journal: the directory of a node or the file of a pod is there before its namespace is, so that Destroy finds everything, whatever
// happened to the process that made it. Processes are found by the namespace that they live in.
//
// A lab outlives the process that made it: New and Up make one, Open finds it again, Down removes it.
package lab
