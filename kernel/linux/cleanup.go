//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
)

// Cleanup removes everything of ours, whoever made it and when, and names what it removed: the routes of the main table that bear
// kernel.RouteProtocol, and the links that bear kernel.LinkAlias or kernel.BridgeAlias with all that is on them. It goes on past
// errors. Pods' links stay. So does a bridge that still has ports: it serves somebody else too.
func (h *Handle) Cleanup(ctx context.Context) (removed []string, err error) {
	routes, err := h.Routes(ctx, nil)
	errs := []error{err}
	stale := make([]kernel.Change[kernel.Route], len(routes))
	for i, r := range routes {
		stale[i] = kernel.Change[kernel.Route]{Value: r, Delete: true}
	}
	failed := h.ApplyRoutes(ctx, stale)
	for i, r := range routes {
		if failed == nil || failed[i] == nil {
			removed = append(removed, "route "+r.Dst.String())
		}
	}
	links, err := h.removeLinks(ctx)
	return append(removed, links...), errors.Join(append(append(errs, failed...), err)...)
}

func (h *Handle) removeLinks(ctx context.Context) (removed []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range all {
		if l.alias != kernel.LinkAlias && l.alias != kernel.BridgeAlias {
			continue
		}
		if ports := portsOf(l.index, all); len(ports) > 0 {
			h.log.Warn("bridge is kept for the ports that it has", "link", l.name, "ports", ports)
			continue
		}
		delete(h.asked, l.name)
		dev := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: l.name, Index: int(l.index)}}
		if err := h.removeDevice(dev); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", l.name, err))
			continue
		}
		removed = append(removed, "link "+l.name)
	}
	return removed, errors.Join(errs...)
}

// portsOf names the links that have the link with the index as their master.
func portsOf(index int32, all []linkMessage) []string {
	var names []string
	for _, l := range all {
		if l.master == index {
			names = append(names, l.name)
		}
	}
	return names
}
