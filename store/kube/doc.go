// Package kube is the datastore in the Kubernetes API: the second implementation of store.Store, the source of Services and policies, and the
// voice in which a node speaks of itself. It is the only client of that API.
//
//	API server ──first all, then changes──> Reflector, one for each kind
//	             Nodes ──────────> nodes ──┬─ Watch: leases           (peers.go)
//	             (all of them, or this one  ├─ Register: this node's   (registration.go)
//	             when leases are in etcd)   ├─ WatchNode: labels, BGP  (record.go)
//	                                        └─ WatchServices: zone, whether it is about to go
//	             Services, EndpointSlices, ServiceCIDRs ──> accumulator ──> store.ServiceChanges   (services.go)
//	             NetworkPolicies, Namespaces, pods, ClusterNetworkPolicies ──> policyAccumulator ──> store.PolicyChanges   (policies.go)
//	API server <── annotations ── registration
//	           <── condition, taint, Events ── Reporter    (report.go, events.go)
//
// The machinery of list, watch, bookmarks, expired resource versions and backoff is client-go's Reflector. What it delivers is not kept: of a Node
// stay its subnets and some annotations (nodes.go), a Service or a pod is turned into the few words that the node needs (store/manifest). An
// informer's cache would hold every object a second time, and a Node is some 10 KB, of which a peer needs 200 bytes.
//
// A lease, walked through. The controller manager gives a new Node its spec.podCIDRs; kubelet starts the daemon there. Register waits for the
// subnets and puts flannel's annotations on the Node: backend-type vxlan, public-ip 192.0.2.12, backend-data {"VNI":1,"VtepMAC":...}. Every other
// node's watch has that as one event; trim leaves what is read; Watch turns it into a store.Lease and emits a snapshot in which all other
// leases are the same pointers as before. A flanneld in the same cluster reads and writes the same annotations.
//
// What is known stays in force. While the API server is away nothing is told. A list that comes later is told as what differs; a Node that it
// lacks, or that is there without its annotations (restored from a backup, registered anew), keeps its lease for Config.Holdover. Only the
// deletion of a Node that was watched takes effect at once. The first change of Services is told when every kind was listed once.
//
// The API server is reached at Config.Addresses first (dial.go): the address of the Service "kubernetes" works only once somebody serves it,
// and that somebody is this daemon.
package kube
