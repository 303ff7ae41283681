//go:build linux

package main

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/proxy/dnat"
)

// monitor joins the notifications of rtnetlink and nftables, and lets others listen to them too.
type monitor struct {
	links    *linux.Monitor
	tables   *nft.Monitor
	pods     *attachments.Keeper
	proxy    *services
	policies *policies
}

// monitor opens a monitor, of the underlay's routes too for a backend that finds next hops by them. The keeper looks at everything again, since
// it heard nothing before.
func (k kernels) monitor(backend string, pods *attachments.Keeper, proxied *services, enforced *policies) (node.Monitor, error) {
	links, err := k.links.NewMonitor(nil)
	if err != nil {
		return nil, err
	}
	if backend == bgp.BackendType {
		if err := links.WatchUnderlay(); err != nil {
			return nil, errors.Join(err, links.Close())
		}
	}
	tables, err := k.tables.NewMonitor()
	if err != nil {
		return nil, errors.Join(err, links.Close())
	}
	pods.Resync()
	proxied.Observe(kernel.Event{Lost: true})
	enforced.Observe(kernel.Event{Lost: true})
	return &monitor{links, tables, pods, proxied, enforced}, nil
}

func (m *monitor) SetLinks(names []string) error { return m.links.SetLinks(names) }

// Run calls emit from one goroutine for each of the two. It ends both when one fails.
func (m *monitor) Run(ctx context.Context, emit func(kernel.Event)) error {
	both := func(ev kernel.Event) {
		m.pods.Observe(ev)
		m.proxy.Observe(ev)
		m.policies.Observe(ev)
		if ev.Kind != kernel.KindTable || ev.Table != dnat.TableName && ev.Table != gate.TableName {
			emit(ev)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.links.Run(ctx, both) })
	g.Go(func() error { return errors.Join(m.tables.Run(ctx, both), m.tables.Close()) })
	return g.Wait()
}

func (m *monitor) Close() error { return errors.Join(m.links.Close(), m.tables.Close()) }
