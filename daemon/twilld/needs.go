//go:build linux

package main

import (
	bgpconfig "github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/features"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/overlay"
	"github.com/twill-cni/twill/store"
)

// prober asks this host's kernel what it can do.
type prober struct{ kernels }

func (p prober) ProbeLink(kind string) error     { return p.links.ProbeLink(kind) }
func (p prober) ProbeTable(t kernel.Table) error { return p.tables.Probe(t) }
func (p prober) ProbeConntrack() error           { return conntrack.Probe() }

// needs tells what the node's configuration asks of the kernel.
func needs(cfg *config.Config, network store.Network, routes *routing) features.Needs {
	return features.Needs{
		IPv4: network.EnableIPv4, IPv6: network.EnableIPv6,
		VXLAN:  cfg.Backend == overlay.BackendType || routes.encapsulates(),
		Proxy:  cfg.Proxy != "off",
		Policy: cfg.Policy == "on",
	}
}

// encapsulates reports whether the file asks for the VXLAN; one that is wrong is somebody else's business.
func (r *routing) encapsulates() bool {
	file, err := r.readFile()
	return err == nil && file.parsed != nil && file.parsed.Overlay != bgpconfig.OverlayNever
}
