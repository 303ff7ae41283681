package store

import (
	"context"
	"time"
)

// ZoneLabel is the well-known label of Kubernetes that says in which zone a node is.
const ZoneLabel = "topology.kubernetes.io/zone"

// NodeEntry is what a datastore holds of a node at one moment, for people.
type NodeEntry struct {
	Name    string // empty where the datastore does not tell, as with a VXLAN node in etcd that has no pods
	Subnets Subnets
	Lease   *Lease // nil when there is none that can be read
	// Expires is when the lease goes unless the node renews it; zero: it stays, or that is not known.
	Expires time.Time
	Created time.Time         // of the node's record; zero: not known
	Labels  map[string]string // that the operator gave the node; nil for none
	Err     error             // why the lease cannot be read
}

// NodeLister is a datastore that can be asked for its nodes. Unlike Watch it reads them at that moment.
type NodeLister interface {
	// ListNodes returns the nodes, sorted by Subnets.Compare, then by name. It does not retry.
	ListNodes(ctx context.Context, what NodeDetail) ([]NodeEntry, error)
}

// NodeDetail is what is asked of nodes.
type NodeDetail int

// The details. Each has what the one before has.
const (
	WithNames    NodeDetail = iota // all but NodeEntry.Expires
	WithExpiries                   // which in etcd costs a request a node
)
