// Package policy tests the enforcement of policies from outside: the built programs in a lab, with real packets.
//
//	etcd ── namespaces, NetworkPolicies, ClusterNetworkPolicies, written as twillctl apply writes them
//	  │
//	  ├── node1   twilld --policy=on   pods x/a y/a z/a    10.70.1.17 .18 .19   fd70:0:0:1::11 ::12 ::13
//	  ├── node2   twilld --policy=on   pods x/b y/b z/b    10.70.2.17 ...
//	  └── node3   twilld --policy=on   pods x/c y/c z/c
//
// The pods are those of the model of package policytest, with its very addresses: leases are reserved before the nodes start, and pods ask for theirs. Each
// asks from its own namespace and answers at ports 80 and 81 of TCP, UDP and SCTP, and echo requests.
//
// One case of TestTruthTable, walked through: its policies replace those of the case before in one transaction of etcd. With them goes a policy about a pod
// that each node has for this, the sentinel; when the daemons say that it is in force, so is everything else. Then all pods ask all pods everything
// at once, in both families: 1,134 connections. What should be closed and is open is wrong. What should be open and is silent is asked again with
// more patience, since packets may be late on a machine with much to do.
//
// TestRandomPolicies has the World of package policy say what should be. Seeds are printed; -seed has a run again, -case picks cases.
//
// The other tests are about time: connections that a policy forbids while they run, the first packets of a pod, addresses that pods with other
// labels had before, daemons that end and come back.
package policy
