// Package proxy tests Twill's service proxy against kube-proxy, and for what it promises beyond: with a real kube-apiserver, real kube-proxies, the built
// programs and real packets.
//
//	namespace of the underlay: etcd, kube-apiserver, and the world (all addresses that a Service might have outside of the cluster)
//	    │
//	    ├── node1 ── pods a, b      twilld --proxy=nftables --kubeconfig ...      or      twilld --proxy=off and kube-proxy
//	    ├── node2 ── pods c, d      the same
//	    ├── out1                    a machine that sends everything to node1
//	    └── out2                    a machine that sends everything to node2
//
// TestScenarios has a table of scenarios: manifests, and probes that say from which machine to which address a packet is sent, and what becomes of
// it: which endpoints answer and whether they see the client's own address, or that it is refused, or dropped. The table is written once, and both
// implementations have to do what it says, with IPv4 and with IPv6. What Twill does otherwise, and why, is in differences_test.go and nowhere else.
//
// One probe, walked through: {"a", "tcp $vip:80", "a~ b c"} of the scenario "ClusterIP" has pod a connect to the scenario's own ClusterIP, first that of
// IPv4, then that of IPv6, until a, b and c have all answered. Each says its name and which address it sees; a~ is a itself, which sees its
// node's address. A fourth name, a refusal or a connection that hangs is a failure.
//
// All scenarios share one cluster for each implementation. Each has a namespace, addresses and ports of its own; the first steps of all are done, then all
// their probes at once, then the second steps, and so on.
//
// TestBehaviour is about Twill alone: connections that outlive restarts, stale datagrams, tables that others changed, an API server that is away,
// balance, random changes. TestKilledWhileItWrites ends the daemon amid its work on 2,000 Services.
//
// The kernels that these tests run on have no sockets for SCTP: it is spoken over raw ones.
package proxy
