//go:build linux

package main

import (
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/store"
)

// findUplink finds the link that the configuration names, with an address of each family that the network has.
func findUplink(cfg *config.Config, network store.Network) (kernel.Uplink, error) {
	return linux.FindUplink(linux.UplinkOptions{
		Iface:      cfg.Iface,
		IfaceRegex: cfg.IfaceRegex,
		PublicIP:   cfg.PublicIP,
		PublicIPv6: cfg.PublicIPv6,
		IPv4:       network.EnableIPv4,
		IPv6:       network.EnableIPv6,
	})
}
