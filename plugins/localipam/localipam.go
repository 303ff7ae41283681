package localipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
)

// IPAM gives the addresses of one network out of an allocator.
type IPAM struct {
	cfg   ipam.Config
	store *filestore.Allocator
	wait  time.Duration // for the store's lock
}

// New returns the IPAM of the network that store is for; cfg is what store was opened with. Its calls wait filestore.LockWait for
// other processes, then their error wraps ipam.ErrBusy.
func New(cfg ipam.Config, store *filestore.Allocator) IPAM {
	return IPAM{cfg: cfg, store: store, wait: filestore.LockWait}
}

var _ attach.IPAM = IPAM{}

// Owner is a pod's owner as package ipam names it.
func Owner(o kernel.PodOwner) ipam.Owner {
	return ipam.Owner{ContainerID: o.ContainerID, IfName: o.IfName}
}

// Allocate gives one address of each range set.
func (l IPAM) Allocate(ctx context.Context, r attach.Request) (attach.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	lease, err := l.store.Allocate(ctx, ipam.Request{Owner: Owner(r.Owner), Netns: r.Netns, Pod: r.Args.Pod,
		IPs: slices.Concat(l.cfg.IPs, r.Args.IPs)})
	if err != nil {
		return attach.Lease{}, err
	}
	out := attach.Lease{Addresses: lease.Addresses, Routes: l.cfg.Routes}
	if l.cfg.ResolvConf != "" {
		if out.DNS, err = readResolvConf(l.cfg.ResolvConf); err != nil {
			return attach.Lease{}, err
		}
	}
	return out, nil
}

func readResolvConf(path string) (netconf.DNS, error) {
	f, err := os.Open(path)
	if err != nil {
		return netconf.DNS{}, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	defer f.Close()
	dns, err := ipam.ParseResolvConf(f)
	if err != nil {
		return netconf.DNS{}, fmt.Errorf("ipam.resolvConf: %s: %w", path, err)
	}
	return netconf.DNS{Nameservers: dns.Nameservers, Domain: dns.Domain, Search: dns.Search, Options: dns.Options}, nil
}

// Release ends the lease; none is no error.
func (l IPAM) Release(ctx context.Context, owner kernel.PodOwner) error {
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	_, err := l.store.Release(ctx, Owner(owner))
	return err
}

// Check returns an error that wraps attach.ErrMismatch when the lease does not hold all the addresses.
func (l IPAM) Check(_ context.Context, owner kernel.PodOwner, addresses []netip.Prefix) error {
	lease, err := l.store.Lookup(Owner(owner))
	if errors.Is(err, ipam.ErrNotFound) {
		return fmt.Errorf("lease of %s is missing: %w", owner, attach.ErrMismatch)
	}
	if err != nil {
		return err
	}
	for _, want := range addresses {
		if !slices.ContainsFunc(lease.Addresses, func(a ipam.Address) bool { return a.Prefix == want }) {
			return fmt.Errorf("lease of %s does not hold %s: %w", owner, want, attach.ErrMismatch)
		}
	}
	return nil
}

// Leased returns the addresses of the owner's lease, if there is one. It does not wait for the store's lock.
func (l IPAM) Leased(_ context.Context, owner kernel.PodOwner) ([]netip.Addr, error) {
	lease, err := l.store.Lookup(Owner(owner))
	if errors.Is(err, ipam.ErrNotFound) {
		return nil, nil
	}
	var out []netip.Addr
	for _, a := range lease.Addresses {
		out = append(out, a.Prefix.Addr())
	}
	return out, err
}

// Free returns those of the addresses that are in the network's ranges and not leased.
func (l IPAM) Free(_ context.Context, addresses []netip.Addr) ([]netip.Addr, error) {
	return l.store.Free(addresses)
}

// Status returns nil when addresses can be had.
func (l IPAM) Status(context.Context) error { return l.store.Status() }

// Retain ends the leases of all that are not in valid.
func (l IPAM) Retain(ctx context.Context, valid []kernel.PodOwner) error {
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	owners := make([]ipam.Owner, len(valid))
	for i, o := range valid {
		owners[i] = Owner(o)
	}
	_, err := l.store.Retain(ctx, owners)
	return err
}
