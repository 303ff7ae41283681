//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/dns/resolver"
	"github.com/twill-cni/twill/dns/zone"
	"github.com/twill-cni/twill/store"
)

// resolvConf is where the host's own name servers are.
const resolvConf = "/etc/resolv.conf"

// names is the DNS server with what feeds it. With --dns=off it does nothing.
type names struct {
	from   datastore
	zone   *zone.Zone
	server *resolver.Server // nil: off
}

// clusterDomain is what pods are told; empty: nothing.
func clusterDomain(cfg *config.Config) string {
	if cfg.DNS != "on" {
		return ""
	}
	return cfg.ClusterDomain
}

func openNames(cfg *config.Config, with neighbours, log *slog.Logger) (*names, error) {
	n := &names{from: with.datastore}
	if cfg.DNS != "on" {
		return n, nil
	}
	var err error
	if n.zone, err = zone.New(cfg.ClusterDomain); err != nil {
		return nil, usageError{err}
	}
	n.server = resolver.New(resolver.Options{
		Zone:       n.zone,
		Upstreams:  cfg.DNSUpstreams,
		ResolvConf: resolvConf,
		Metrics:    resolver.NewMetrics(with.metrics.Registry()),
		Log:        log,
	})
	return n, nil
}

// Run answers until ctx ends. Of what policies are told, pods alone are names' business.
func (n *names) Run(ctx context.Context) error {
	if n.server == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	watch := func(what string, err error) error {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch %s for their names: %w", what, err)
	}
	g.Go(func() error { return watch("Services", n.from.services.WatchServices(ctx, n.zone.Apply)) })
	g.Go(func() error { return watch("pods", n.from.policies.WatchPolicies(ctx, n.zone.ApplyPods)) })
	g.Go(func() error { return n.server.Run(ctx) })
	return g.Wait()
}

// Ready returns nil when names are answered, or not wanted.
func (n *names) Ready() error {
	if n.server == nil {
		return nil
	}
	return n.server.Ready()
}

// setNetworks tells the networks of pods, and of this node's, whose gateways are where names are answered.
func (n *names) setNetworks(network store.Network, own store.Subnets) {
	if n.server == nil {
		return
	}
	at, pods := hostfile.Gateways(own), valid(network.IPv4.Network, network.IPv6.Network)
	n.zone.SetServers(at)
	n.zone.SetPodNetworks(pods)
	n.server.Move(resolver.Place{Addrs: at, Clients: pods})
}
