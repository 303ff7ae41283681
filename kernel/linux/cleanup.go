//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
)

// Cleanup removes everything of ours, whoever made it and when: the routes of the main table that bear kernel.RouteProtocol, and the
// links that bear kernel.LinkAlias with all that is on them. It goes on past errors. Pods' links stay.
func (h *Handle) Cleanup(ctx context.Context) error {
	routes, err := h.Routes(ctx, nil)
	errs := []error{err}
	stale := make([]kernel.Change[kernel.Route], len(routes))
	for i, r := range routes {
		stale[i] = kernel.Change[kernel.Route]{Value: r, Delete: true}
	}
	errs = append(errs, h.ApplyRoutes(ctx, stale)...)
	return errors.Join(append(errs, h.removeLinks(ctx))...)
}

func (h *Handle) removeLinks(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range all {
		if l.alias != kernel.LinkAlias {
			continue
		}
		delete(h.asked, l.name)
		dev := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: l.name, Index: int(l.index)}}
		if err := h.removeDevice(dev); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}
