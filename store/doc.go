// Package store says what the cluster says: its network configuration and the leases of its nodes, as whole snapshots. It
// holds the words and the rules that every datastore shares; store/etcd (and later store/kube) are the datastores, and
// store/storetest is the contract suite that each of them passes.
//
// A lease's way through it: a node registers, the datastore gives it a subnet and keeps the record alive; every other
// node's Watch yields a Snapshot that holds the new lease; the routing backend turns it into kernel state.
package store
