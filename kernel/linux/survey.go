//go:build linux

package linux

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/kernel"
)

// Sighting is a link as anybody may have made it.
type Sighting struct {
	Name, Alias string
	Kind        string // "bridge", "vxlan"...; empty for what is none of the kernel's virtual devices
	Master      string // the bridge that it is a port of; empty for none
	MTU         int    // bytes
	Addresses   []netip.Prefix
	VXLAN       *kernel.VXLAN // nil unless it is one
	// TxChecksumOffload is nil where it is not known; it is looked at for VXLAN devices alone.
	TxChecksumOffload *bool
}

// Survey returns all links of the network namespace, in the kernel's order. It changes nothing.
func (h *Handle) Survey(ctx context.Context) ([]Sighting, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addresses, err := dumpAddresses(ctx, h.conn, 0)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	names := map[int32]string{}
	for _, l := range links {
		names[l.index] = l.name
	}
	var all []Sighting
	for _, l := range links {
		s := Sighting{Name: l.name, Alias: l.alias, Kind: l.kind, Master: names[l.master], MTU: int(l.mtu)}
		for _, a := range addresses {
			if a.index == l.index {
				s.Addresses = append(s.Addresses, a.prefix)
			}
		}
		if l.kind == "vxlan" {
			link, _, err := h.readLink(ctx, l.name, links)
			if err != nil {
				return nil, err
			}
			s.VXLAN, s.TxChecksumOffload = link.VXLAN, link.TxChecksumOffload
		}
		all = append(all, s)
	}
	return all, nil
}
