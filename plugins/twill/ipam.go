//go:build linux

package main

import (
	"context"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/delegate"
	"github.com/twill-cni/twill/plugins/localipam"
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
	return localipam.New(parsed, store), nil
}

// broken stands for an IPAM that could not be opened.
type broken struct{ err error }

func (b broken) Allocate(context.Context, attach.Request) (attach.Lease, error) {
	return attach.Lease{}, b.err
}

func (b broken) Release(context.Context, kernel.PodOwner) error { return b.err }

func (b broken) Check(context.Context, kernel.PodOwner, []netip.Prefix) error { return b.err }

func (b broken) Status(context.Context) error { return b.err }

func (b broken) Leased(context.Context, kernel.PodOwner) ([]netip.Addr, error) { return nil, b.err }

func (b broken) Free(context.Context, []netip.Addr) ([]netip.Addr, error) { return nil, b.err }

func (b broken) Retain(context.Context, []kernel.PodOwner) error { return b.err }
