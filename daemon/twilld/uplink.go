//go:build linux

package main

import (
	"context"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/store"
)

// findUplink finds the link that the configuration names, with an address of each family that the network has. A node that routes has to
// know the ways beyond it too.
func findUplink(ctx context.Context, cfg *config.Config, network store.Network, k *linux.Handle) (kernel.Uplink, error) {
	uplink, err := linux.FindUplink(linux.UplinkOptions{
		Iface:      cfg.Iface,
		IfaceRegex: cfg.IfaceRegex,
		PublicIP:   cfg.PublicIP,
		PublicIPv6: cfg.PublicIPv6,
		IPv4:       network.EnableIPv4,
		IPv6:       network.EnableIPv6,
	})
	if err != nil || cfg.Backend != bgp.BackendType {
		return uplink, err
	}
	uplink.Routes, err = k.Underlay(ctx)
	return uplink, err
}
