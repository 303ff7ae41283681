// Package etcd keeps the cluster's leases in etcd, in flannel's schema, so that flannel's nodes and Twill's share one prefix:
//
//	<prefix>/config                  the network configuration, written by the operator
//	<prefix>/subnets/10.5.52.0-24    a node's record (see store.Subnets.Key), attached to an etcd lease of LeaseTTL
//	<prefix>/nodes/<name>            what the operator says of a node (see store.ParseNodeRecord); flannel does not look there
//	<prefix>/registry/history        a random text that tells this etcd from one that was wiped
//
// Beside them, for hosts without Kubernetes, are Services and policies:
//
//	<prefix>/registry/config                       ranges of addresses and ports (see store.ParseServiceConfig), written by the operator
//	<prefix>/registry/services/<ns>/<name>         a Service, as canonical JSON of the API's type
//	<prefix>/registry/endpointslices/<ns>/<name>   an EndpointSlice that somebody wrote, likewise
//	<prefix>/registry/pods/<node>/<ns>/<name>      a pod (see store.Pod), attached to an etcd lease of PodTTL that the node's daemon renews
//	<prefix>/registry/networkpolicies/<ns>/<name>  a NetworkPolicy, likewise
//	<prefix>/registry/clusternetworkpolicies/<name>
//	<prefix>/registry/namespaces/<name>            the labels of a namespace; one without a record has the label with its name alone
//	<prefix>/allocations/clusterips/<address>      the name of the Service that has the address
//	<prefix>/allocations/nodeports/<port>          the name of the Service that has the port
//
// A registration is a loop around one idempotent step, hold, that makes the node's record be what it should be; whatever
// may have disturbed the record only wakes the loop. A watch is a paginated load and the events after its revision; it is opened
// before the load, since etcd serves a watch from a past revision up to 100 ms late:
//
//	              +---------- record changed, epoch, timer, Update ---------+
//	              v                                                         |
//	Register -> claim ---> hold: there? ours? alive? as wanted? -----> await
//
//	            +----- compacted, epoch: load again, keep equal pointers ------+
//	            v                                                              |
//	Watch --> open --> load at revision R --> emit --> events after R --> merge --> emit
//
// That loop is feed's, for leases, Services and policies alike; what differs is what its reader makes of keys. Of the registry it is one reader,
// registryWatch, with a listener for Services (services.go) and another for policies (policies.go); both learn of pods.
//
// Two nodes never get the same subnet: the transaction that makes a record is guarded by the absence of every key with its IPv4
// subnet, and a dual-stack claim is checked afterwards for its IPv6 subnet (the older record stays).
//
// The store probes etcd every two seconds. Health goes by the probe's answers; they also tell an etcd that was restored from a
// backup or wiped, which a watch does not notice by itself: its revisions go back, or <prefix>/registry/history, a random text that the first
// node writes, is gone or another. That starts a new epoch:
// everything is read again, nodes claim their subnets again, and leases that vanished with the old history hold on until their nodes
// had the time for it (holdover.go), so that nobody removes peers that are alive. The same goes for leases that expired in a long
// outage, when no node could renew its own.
//
// A node's start, step by step: Register reads all records in pages, finds the one with the node's public address, extends
// its etcd lease, and writes only what differs, so that a restart is no event for the others. A node without a record
// draws one of the free subnets. When 200 nodes do that at once some transactions fail, and those nodes read and draw again.
//
// A Service is stored by Apply in one transaction with the allocation of each address and port that it is given. The transaction is guarded by the
// absence of these allocations and by the Service being what it was read as: of any number of writers that draw the same address one succeeds,
// and one that dies leaves nothing half done. Pods are published as a set: PodPublisher makes the node's folder be what it was last told.
package etcd
