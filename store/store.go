package store

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
)

var (
	// ErrNoNetwork says that the datastore holds no network configuration yet.
	ErrNoNetwork = errors.New("no network configuration is stored")
	// ErrExhausted says that every subnet of the network is leased.
	ErrExhausted = errors.New("no free subnet is left in the network")
	// ErrLost says that the registration's subnet is held by another node now.
	ErrLost = errors.New("the node's subnet was taken by another node")
)

// Lease is a node's record: the subnets that its pods live in and how to reach them. A Lease is never changed after it
// was made.
type Lease struct {
	Subnet        netip.Prefix // IPv4; the zero Prefix when the node has none
	IPv6Subnet    netip.Prefix // the zero Prefix when the node has none
	PublicIP      netip.Addr   // the node's underlay address; the zero Addr when it has none
	PublicIPv6    netip.Addr
	BackendType   string          // "vxlan", "bgp", ...
	BackendData   json.RawMessage // of the backend, for IPv4
	BackendV6Data json.RawMessage // of the backend, for IPv6
}

// Attributes are what a node says of itself; the datastore adds the subnets.
type Attributes struct {
	NodeName      string
	PublicIP      netip.Addr
	PublicIPv6    netip.Addr
	BackendType   string
	BackendData   json.RawMessage
	BackendV6Data json.RawMessage
}

// Snapshot is everything that the cluster says at one time. It is never changed after it was made, and a lease whose
// record did not change is the same pointer as in the snapshot before.
type Snapshot struct {
	Leases   []*Lease // all nodes', this node's among them; sorted by Subnets.Compare
	Revision int64    // grows from snapshot to snapshot
	Rejected []Reject // records that could not be read; each peer concerned keeps its last good lease, if there was one
}

// Reject is a record that was skipped, and why.
type Reject struct {
	Key string
	Err error
}

// Store is a datastore. Its methods may be called concurrently. It logs what it retries; it returns an error only when ctx has
// ended or when no retry can help.
type Store interface {
	// Network returns the cluster's network configuration. It returns an error that wraps ErrNoNetwork when there is none, and a plain
	// one when what is stored cannot be understood. It does not wait for a datastore that cannot be reached: retrying is
	// the caller's.
	Network(ctx context.Context) (Network, error)

	// Register publishes the node's attributes and returns its registration. The node gets the subnets that it had before: those of the
	// lease with its public address, else preferred (the first is tried first) where they are free and fit the network; else
	// free ones. However many nodes register at the same time, each gets subnets of its own; losing a race is
	// retried inside. The error wraps ErrExhausted when none is left. A datastore that cannot be reached is an error.
	Register(ctx context.Context, network Network, attrs Attributes, preferred []Subnets) (Registration, error)

	// Watch calls emit with a whole snapshot at first and after each change; changes that arrive together come as one snapshot. It goes
	// on through disconnects, compaction and restarts of the datastore, and never emits a snapshot that it knows to be
	// incomplete. It returns when ctx has ended. emit is called from one goroutine.
	Watch(ctx context.Context, emit func(Snapshot)) error

	// WatchNode calls emit with the record of the node with that name at first, which is the zero record with the name when there is
	// none, and after each change that says something else. Changes that come fast may come as one. What cannot be read is logged
	// once and changes nothing: the last good record stays, at first the zero one. It goes on as Watch does, and returns when
	// ctx has ended, or at once when CheckNodeName refuses the name. emit is called from one goroutine.
	WatchNode(ctx context.Context, name string, emit func(NodeRecord)) error

	// Redial says that the node lost these addresses: connections to the datastore from one of them are dead and are made anew at
	// once, instead of after the transport's timeout of some seconds. Others are left alone. It does not wait.
	Redial(gone []netip.Addr)

	// Health returns nil when the datastore answered lately, else the last error. It does no I/O.
	Health() error

	Close() error
}

// Registration keeps a node's lease alive from Register until Close. When the datastore lost the lease (it expired during an
// outage, or was deleted by hand), the same subnets are claimed again.
type Registration interface {
	// Lease returns the lease as it was last stored.
	Lease() *Lease
	// Update publishes new attributes (the node's address changed) for the same subnets. It is retried in the background when the datastore is
	// away; the last call wins.
	Update(attrs Attributes)
	// Err returns nil while the lease is held, else the last error; ErrLost when another node holds the subnets.
	Err() error
	// Lost returns a channel that is closed when Err became ErrLost for the first time. Registering again is the way on.
	Lost() <-chan struct{}
	// Close stops renewing and leaves the lease to expire, so that a restarted daemon finds its subnets again.
	Close() error
}

// Subnets are a node's pod subnets, one of each family that the network has.
type Subnets struct{ IPv4, IPv6 netip.Prefix }
