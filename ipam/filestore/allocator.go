package filestore

import (
	"context"
	"errors"

	"github.com/twill-cni/twill/ipam"
)

// Allocator allocates addresses of one network. Its methods may be called concurrently, by any number of processes.
type Allocator struct {
	cfg     ipam.Config
	network string
}

// Open returns the allocator of the CNI network with the given name. It does no I/O.
func Open(cfg ipam.Config, network string) (*Allocator, error) {
	return &Allocator{cfg: cfg, network: network}, ipam.ValidateNetwork(network)
}

var errUnfinished = errors.New("not there yet")

// Allocate gives the owner one address of each range set, or none at all. An owner that holds a lease gets the same again.
func (a *Allocator) Allocate(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	return ipam.Lease{}, errUnfinished
}

// Release ends the owner's lease. It returns false, and no error, when there was none.
func (a *Allocator) Release(ctx context.Context, owner ipam.Owner) (bool, error) {
	return false, errUnfinished
}

// Lookup returns the owner's lease, or an error that wraps ipam.ErrNotFound.
func (a *Allocator) Lookup(owner ipam.Owner) (ipam.Lease, error) { return ipam.Lease{}, errUnfinished }

// Leases returns all leases.
func (a *Allocator) Leases() ([]ipam.Lease, error) { return nil, errUnfinished }

// Retain releases every lease whose owner is not in valid and returns those that it released.
func (a *Allocator) Retain(ctx context.Context, valid []ipam.Owner) ([]ipam.Lease, error) {
	return nil, errUnfinished
}

// Status returns nil when an address of each range set could be allocated.
func (a *Allocator) Status() error { return errUnfinished }
