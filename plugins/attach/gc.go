package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

// GC removes everything of the network that belongs to no valid attachment: what records tell of, and links, shapers, leases and host ports
// that no record tells of. It goes on past errors and returns all of them. Without a list of valid attachments it does
// nothing, which is different from an empty list. ADDs wait while it runs.
func (p *Plugin) GC(ctx context.Context, cfg *netconf.Config) error {
	if cfg.ValidAttachments == nil {
		return nil
	}
	release, err := p.Records.Freeze()
	if err != nil {
		return err
	}
	defer release()
	keep := map[kernel.PodOwner]bool{}
	for _, owner := range cfg.ValidAttachments {
		keep[owner] = true
	}
	stale, err := p.stale(cfg.Name, keep)
	errs := []error{err}
	for _, owner := range stale {
		if err := p.remove(ctx, cfg.Name, owner); err != nil {
			errs = append(errs, fmt.Errorf("remove stale attachment %s: %w", owner, err))
			keep[owner] = true // its addresses may be in use
		}
	}
	kept := slices.SortedFunc(maps.Keys(keep), compareOwners)
	errs = append(errs, p.IPAM.Retain(ctx, kept), p.unmapFree(ctx, cfg.Name, kept))
	return errors.Join(errs...)
}

// unmapFree removes the host ports that lead to addresses of the network which nobody has: no lease holds them, and no record of the node,
// also of another network's attachment, names them. While the addresses of an attachment that is kept are not known, all stay.
func (p *Plugin) unmapFree(ctx context.Context, network string, kept []kernel.PodOwner) error {
	targets, err := p.HostPorts.Targets()
	if err != nil || len(targets) == 0 {
		return err
	}
	free := make([]netip.Addr, len(targets))
	for i, pod := range targets {
		free[i] = pod.Addresses[0].Addr()
	}
	if free, err = p.IPAM.Free(ctx, free); err != nil || len(free) == 0 {
		return err
	}
	records, err := p.Records.OfNode() // after the ports: an ADD in another network writes its record before it maps any
	if err != nil {
		return err
	}
	known := map[kernel.PodOwner]bool{}
	for _, r := range records {
		known[r.Owner()] = known[r.Owner()] || r.Network == network
		for _, a := range r.Addresses {
			free = slices.DeleteFunc(free, func(f netip.Addr) bool { return f == a.Addr() })
		}
	}
	for _, owner := range kept {
		if known[owner] {
			continue
		}
		if leased, err := p.IPAM.Leased(ctx, owner); err != nil || len(leased) == 0 {
			return err
		}
	}
	return p.unmap(ctx, targets, free)
}

// stale returns the owners of everything that is not to be kept. A link without a record is this network's when its name
// is the one that the owner's link has in this network; other networks' are left to their own GC.
func (p *Plugin) stale(network string, keep map[kernel.PodOwner]bool) ([]kernel.PodOwner, error) {
	stale := map[kernel.PodOwner]bool{}
	records, listErr := p.Records.List()
	for _, r := range records {
		stale[r.Owner()] = true
	}
	links, linkErr := p.Kernel.PodLinks()
	for _, l := range links {
		for try := range nameTries {
			if l.Name == hostLink(network, l.Owner, try) {
				stale[l.Owner] = true
			}
		}
	}
	shapers, shaperErr := p.Kernel.Shapers()
	for name, owner := range shapers {
		if name == shaper(network, owner) {
			stale[owner] = true
		}
	}
	maps.DeleteFunc(stale, func(owner kernel.PodOwner, _ bool) bool { return keep[owner] })
	return slices.SortedFunc(maps.Keys(stale), compareOwners), errors.Join(listErr, linkErr, shaperErr)
}

func compareOwners(a, b kernel.PodOwner) int {
	switch {
	case a == b:
		return 0
	case a.ContainerID < b.ContainerID, a.ContainerID == b.ContainerID && a.IfName < b.IfName:
		return -1
	}
	return 1
}

// Status returns nil when an ADD would be served: addresses can be had and the kernel answers.
func (p *Plugin) Status(ctx context.Context) error {
	return errors.Join(p.IPAM.Status(ctx), p.Kernel.Probe())
}
