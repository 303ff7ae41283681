package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

// GC removes everything of the network that belongs to no valid attachment: what records tell of, and links, shapers and leases
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
	errs = append(errs, p.IPAM.Retain(ctx, slices.SortedFunc(maps.Keys(keep), compareOwners)))
	return errors.Join(errs...)
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
