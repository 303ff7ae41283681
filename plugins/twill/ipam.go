//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/delegate"
	"github.com/twill-cni/twill/plugins/netconf"
)

// localIPAM is the ipam.type whose allocator runs in this process.
const localIPAM = "twill-ipam"

// openIPAM returns what gives out the network's addresses.
func openIPAM(cfg *netconf.Config, args *skel.CmdArgs, parse func([]byte) (ipam.Config, error)) (attach.IPAM, error) {
	if cfg.IPAM != localIPAM {
		return delegate.Plugin{Name: cfg.IPAM, Netconf: cfg.Raw, Path: args.Path, Netns: args.Netns, Args: args.Args}, nil
	}
	parsed, err := parse(cfg.Raw)
	if err != nil {
		return nil, withCode(types.ErrInvalidNetworkConfig, err)
	}
	store, err := filestore.Open(parsed, cfg.Name)
	if err != nil {
		return nil, withCode(types.ErrInvalidNetworkConfig, err)
	}
	return local{cfg: parsed, store: store}, nil
}

// local adapts the in-process allocator.
type local struct {
	cfg   ipam.Config
	store *filestore.Allocator
}

func toOwner(o kernel.PodOwner) ipam.Owner {
	return ipam.Owner{ContainerID: o.ContainerID, IfName: o.IfName}
}

func (l local) Allocate(ctx context.Context, r attach.Request) (attach.Lease, error) {
	lease, err := l.store.Allocate(ctx, ipam.Request{Owner: toOwner(r.Owner), Netns: r.Netns, Pod: r.Args.Pod,
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

func (l local) Release(ctx context.Context, owner kernel.PodOwner) error {
	_, err := l.store.Release(ctx, toOwner(owner))
	return err
}

func (l local) Check(_ context.Context, owner kernel.PodOwner, addresses []netip.Prefix) error {
	lease, err := l.store.Lookup(toOwner(owner))
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

func (l local) Status(context.Context) error { return l.store.Status() }

func (l local) Retain(ctx context.Context, valid []kernel.PodOwner) error {
	owners := make([]ipam.Owner, len(valid))
	for i, o := range valid {
		owners[i] = toOwner(o)
	}
	_, err := l.store.Retain(ctx, owners)
	return err
}

// broken stands for an IPAM that could not be opened.
type broken struct{ err error }

func (b broken) Allocate(context.Context, attach.Request) (attach.Lease, error) {
	return attach.Lease{}, b.err
}

func (b broken) Release(context.Context, kernel.PodOwner) error { return b.err }

func (b broken) Check(context.Context, kernel.PodOwner, []netip.Prefix) error { return b.err }

func (b broken) Status(context.Context) error { return b.err }

func (b broken) Retain(context.Context, []kernel.PodOwner) error { return b.err }
