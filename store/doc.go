// Package store says what the cluster says: its network configuration, the leases of its nodes, as whole snapshots, and what the
// operator says of a node. It holds the words and the rules that every datastore shares; store/etcd and store/kube are the
// datastores, and store/storetest is the contract suite that each of them passes.
//
//	network.go   ParseNetwork     flannel's network configuration -> Network
//	pool.go      Network.Choose   which subnets a node may have
//	lease.go     Key, Value       a lease as a datastore holds it, byte for byte as flannel does
//	node.go      ParseNodeRecord  what the operator says of a node
//	table.go     Merge, Replace   snapshots that keep the pointers of unchanged leases
//
// A lease's way through it: a node registers, the datastore lets Choose draw a subnet and keeps the record alive; every other
// node's Watch decodes the record, merges it into the last snapshot and yields a new one, in which all other leases are the
// same pointers as before; the routing backend turns the one that is new into kernel state.
package store
