//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/deadend"
	"github.com/twill-cni/twill/daemon/features"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/daemon/masquerade"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/overlay"
	"github.com/twill-cni/twill/store"
)

// serve opens everything, runs the node until ctx ends, and closes everything again.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger) (err error) {
	host, err := newHost(cfg, log)
	if err != nil {
		return err
	}
	if err := host.CheckPlugins(); err != nil {
		return usageError{err}
	}
	metrics := health.NewMetrics(version, cfg.Backend)
	routes, err := openRouting(cfg, host, metrics, log)
	if err != nil {
		return err
	}
	held, err := lock(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	k, err := openKernels(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	from, err := openDatastore(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()

	pods, err := openPodHost(cfg, k, host, log)
	if err != nil {
		return err
	}
	defer pods.Close()
	told := newReports(cfg, from.kube)
	keeper := pods.keeper(cfg, metrics, told)
	proxied, err := openServices(cfg, k, neighbours{from, routes, metrics}, log)
	if err != nil {
		return err
	}
	n := node.New(node.Options{
		Store:     from,
		Dataplane: reconcile.New(k.links, k.tables, log),
		Host:      host,
		Log:       log,
		Kernel:    func(network store.Network) error { return features.Check(prober{k}, needs(cfg, network, routes)) },
		Leftovers: func(ctx context.Context, own store.Subnets) error {
			return k.links.CheckBridge(ctx, node.Bridge, valid(own.IPv4, own.IPv6))
		},
		Backend: func(network store.Network) (node.Backend, error) {
			return newBackend(ctx, cfg, network, backends{k, routes})
		},
		Uplink: func(network store.Network) (kernel.Uplink, error) {
			uplink, err := findUplink(ctx, cfg, network, k.links)
			if err == nil {
				proxied.setUplink(ctx, uplink)
			}
			return uplink, err
		},
		Monitor: func() (node.Monitor, error) { return k.monitor(cfg.Backend, keeper, proxied) },
		Tables: func(network store.Network, own store.Subnets) []kernel.Table {
			proxied.setNetworks(network, own)
			return append(tables(cfg, network, own), routes.tables()...)
		},
		BridgeMAC: k.bridgeMAC,
		Forwarding: func(ipv4, ipv6 bool) error {
			return errors.Join(k.links.EnsureForwarding(ipv4, ipv6), proxied.prepareHost(ipv4, ipv6))
		},
		Observer: metrics,
		Jitter:   jitter,
	})
	addresses := health.Addresses{Health: cfg.HealthAddress, Metrics: cfg.MetricsAddress}
	server, err := health.Listen(addresses, n.Status(), metrics, log, proxied.Ready, told.Health)
	if err != nil {
		return err
	}
	questions, err := api.Listen(cfg.RunDir, api.About{BGP: routes.about, Services: proxied.about}, log)
	if err != nil {
		return err
	}
	log.Info("twilld starts", "version", version, "node", cfg.NodeName, "backend", cfg.Backend)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return questions.Run(ctx) })
	g.Go(func() error { return told.failed(n.Run(ctx)) })
	g.Go(func() error { return told.Run(ctx, n.Status(), proxied) })
	g.Go(func() error { return routes.Run(ctx, from) })
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error { return proxied.Run(ctx) })
	g.Go(func() error { return publishPods(ctx, cfg, pods, from) })
	err = g.Wait()
	log.Info("twilld ends; what it programmed stays in the kernel")
	return err
}

func jitter(d time.Duration) time.Duration { return rand.N(max(d, 1)) }

func newHost(cfg *config.Config, log *slog.Logger) (*hostfile.Host, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the directory of the plugins: %w", err)
	}
	return hostfile.New(hostfile.Options{
		SubnetFile:   cfg.SubnetFile,
		RunDir:       cfg.RunDir,
		ConfDir:      cfg.CNIConfDir,
		BinDir:       cfg.CNIBinDir,
		HostLocalDir: cfg.HostLocalDir,
		PluginsDir:   filepath.Dir(self),
		IPMasq:       cfg.IPMasq,
		Log:          log,
	}), nil
}

// backends are what a backend is made with.
type backends struct {
	kernels
	routes *routing
}

// newBackend makes the backend that the stored configuration asks for, and refuses when the node was told otherwise.
func newBackend(ctx context.Context, cfg *config.Config, network store.Network, with backends) (node.Backend, error) {
	if network.BackendType != cfg.Backend {
		return nil, &store.Trouble{Reason: store.ReasonNetworkConfigInvalid, Err: fmt.Errorf("the stored network configuration says Backend.Type %q, "+
			"but this node was told --backend=%s: all nodes of a cluster speak the same", network.BackendType, cfg.Backend)}
	}
	tunnels, err := newOverlay(ctx, cfg, network, with.links)
	if err != nil {
		return nil, err
	}
	if cfg.Backend == overlay.BackendType {
		return tunnels, with.tables.SyncTables(ctx, nil, []string{deadend.TableName})
	}
	return with.routes.newBackend(ctx, network, tunnels, with.links)
}

func newOverlay(ctx context.Context, cfg *config.Config, network store.Network, k *linux.Handle) (*overlay.Backend, error) {
	vxlan, err := overlay.ParseConfig(network.BackendConfig)
	if err != nil {
		return nil, err
	}
	macs := map[string]kernel.MAC{}
	for _, name := range overlay.LinkNames(vxlan.VNI) {
		link, ok, err := k.ReadLink(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read device %s: %w", name, err)
		}
		if ok && link.VXLAN != nil {
			macs[name] = link.MAC
		}
	}
	return overlay.New(overlay.Options{
		Config:            vxlan,
		Network:           network,
		NodeName:          cfg.NodeName,
		PublicIP:          cfg.PublicIP,
		PublicIPv6:        cfg.PublicIPv6,
		MACs:              macs,
		TxChecksumOffload: cfg.VXLANChecksumOffload,
	})
}

// tables returns the masquerade table. With --ip-masq=false it has no rules, but it is still there: only so is the table
// emptied that an earlier run filled.
func tables(cfg *config.Config, network store.Network, own store.Subnets) []kernel.Table {
	var rules masquerade.Config
	if cfg.IPMasq {
		rules.Cluster = valid(network.IPv4.Network, network.IPv6.Network)
		rules.Local = valid(own.IPv4, own.IPv6)
	}
	return []kernel.Table{masquerade.Table(rules)}
}

func valid(prefixes ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
}

// kernels are the handles on this network namespace.
type kernels struct {
	links  *linux.Handle
	tables *nft.Handle
	reader *nft.Handle // for questions: a long listing keeps no change waiting
}

func openKernels(cfg *config.Config, log *slog.Logger) (kernels, error) {
	links, err := linux.Open(log, linux.WithSysctlDir(cfg.SysctlDir))
	if err != nil {
		return kernels{}, fmt.Errorf("open rtnetlink: %w", err)
	}
	tables, err := nft.Open(log)
	if err != nil {
		return kernels{}, errors.Join(fmt.Errorf("open nftables: %w", err), links.Close())
	}
	reader, err := nft.Open(log)
	if err != nil {
		return kernels{}, errors.Join(fmt.Errorf("open nftables: %w", err), tables.Close(), links.Close())
	}
	return kernels{links, tables, reader}, nil
}

func (k kernels) bridgeMAC(ctx context.Context) (kernel.MAC, error) {
	link, ok, err := k.links.ReadLink(ctx, node.Bridge)
	if err != nil || !ok || link.Bridge == nil {
		return kernel.MAC{}, err
	}
	return link.MAC, nil
}

func (k kernels) close() error {
	return errors.Join(k.reader.Close(), k.tables.Close(), k.links.Close())
}
