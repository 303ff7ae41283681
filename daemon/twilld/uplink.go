//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/store"
)

// findUplink finds the link that the configuration names, with an address of each family that the network has.
func findUplink(cfg *config.Config, network store.Network) (kernel.Uplink, error) {
	opts := linux.UplinkOptions{
		Iface:      cfg.Iface,
		PublicIP:   cfg.PublicIP,
		PublicIPv6: cfg.PublicIPv6,
		IPv4:       network.EnableIPv4,
		IPv6:       network.EnableIPv6,
	}
	if cfg.IfaceRegex != nil {
		opts.IfaceRegex = cfg.IfaceRegex.String()
	}
	found, err := linux.FindUplink(opts)
	if err != nil {
		return kernel.Uplink{}, err
	}
	addresses, err := prefixes(found.Name)
	if err != nil {
		return kernel.Uplink{}, err
	}
	return kernel.Uplink{Name: found.Name, MTU: found.MTU, Addresses: primaryFirst(addresses, found.IPv4, found.IPv6)}, nil
}

// prefixes returns the link's global addresses with their prefix lengths.
func prefixes(link string) ([]netip.Prefix, error) {
	dev, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("read uplink %s: %w", link, err)
	}
	addrs, err := dev.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read addresses of uplink %s: %w", link, err)
	}
	var found []netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			found = append(found, p)
		}
	}
	return found, nil
}

// primaryFirst moves the primary addresses to the front.
func primaryFirst(all []netip.Prefix, primary ...netip.Addr) []netip.Prefix {
	rank := func(p netip.Prefix) int {
		if i := slices.Index(primary, p.Addr()); i >= 0 {
			return i
		}
		return len(primary)
	}
	slices.SortStableFunc(all, func(a, b netip.Prefix) int { return rank(a) - rank(b) })
	return all
}
