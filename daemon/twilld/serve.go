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
	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/deadend"
	"github.com/twill-cni/twill/daemon/features"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/daemon/lastlog"
	"github.com/twill-cni/twill/daemon/masquerade"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/status"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/overlay"
	"github.com/twill-cni/twill/store"
)

// serve opens everything, runs the node until ctx ends, and closes everything again. last is what was logged lately.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger, last *lastlog.Ring) (err error) {
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
	a := &agent{cfg: cfg, log: log, host: host, metrics: metrics, k: k, datastore: from, pods: pods, routes: routes, told: newReports(cfg, from.kube), last: last}
	a.keeper = pods.keeper(cfg, metrics, a.told)
	with := neighbours{from, routes, metrics}
	if a.proxied, err = openServices(cfg, k, with, log); err != nil {
		return err
	}
	a.enforced = openPolicies(cfg, k, pods, with)
	if a.named, err = openNames(cfg, with, log); err != nil {
		return err
	}
	a.shown = openPage(cfg, metrics, log)
	a.asked = newStatus(a)
	a.node = node.New(a.nodeOptions(ctx))
	return a.run(ctx)
}

// agent is all that runs.
type agent struct {
	cfg     *config.Config
	log     *slog.Logger
	host    *hostfile.Host
	metrics *health.Metrics
	k       kernels

	datastore datastore
	routes    *routing
	pods      *podHost
	keeper    *attachments.Keeper
	proxied   *services
	enforced  *policies
	named     *names
	shown     *shown
	node      *node.Node
	told      *reports
	asked     *status.Collector
	last      *lastlog.Ring
}

func (a *agent) nodeOptions(ctx context.Context) node.Options {
	return node.Options{
		Store:     overheard{a.datastore, a.shown},
		Dataplane: reconcile.New(a.k.links, a.k.tables, a.log),
		Host:      announced{policed{a.host, a.enforced}, a.asked},
		Log:       a.log,
		Kernel:    func(network store.Network) error { return features.Check(prober{a.k}, needs(a.cfg, network, a.routes)) },
		Leftovers: func(ctx context.Context, own store.Subnets) error {
			return a.k.links.CheckBridge(ctx, node.Bridge, valid(own.IPv4, own.IPv6))
		},
		Backend: func(network store.Network) (node.Backend, error) {
			return newBackend(ctx, a.cfg, network, backends{a.k, a.routes})
		},
		Uplink: func(network store.Network) (kernel.Uplink, error) {
			uplink, err := findUplink(ctx, a.cfg, network, a.k.links)
			if err == nil {
				a.proxied.setUplink(ctx, uplink)
				a.asked.SetUplink(uplink)
			}
			return uplink, err
		},
		Monitor: func() (node.Monitor, error) { return a.k.monitor(a.cfg.Backend, a.keeper, a.proxied, a.enforced) },
		Tables: func(network store.Network, own store.Subnets) []kernel.Table {
			a.proxied.setNetworks(network, own)
			a.enforced.setNetworks(own)
			a.named.setNetworks(network, own)
			a.shown.setNetworks(own)
			return append(tables(a.cfg, network, own), a.routes.tables()...)
		},
		BridgeMAC: a.k.bridgeMAC,
		Forwarding: func(ipv4, ipv6 bool) error {
			return errors.Join(a.k.links.EnsureForwarding(ipv4, ipv6), a.proxied.prepareHost(ipv4, ipv6), a.enforced.prepareHost(ipv4, ipv6))
		},
		Observer: observers{a.metrics, a.asked},
		Jitter:   jitter,
	}
}

// also are what has to be ready beside the node.
func (a *agent) also() []func() error {
	return []func() error{a.proxied.Ready, a.enforced.Ready, a.named.Ready}
}

// Ready returns why /readyz says no; nil when it says yes.
func (a *agent) Ready() error {
	errs := []error{a.node.Status().Ready()}
	for _, ready := range a.also() {
		errs = append(errs, ready())
	}
	return errors.Join(append(errs, a.told.Health())...)
}

// run does all that the daemon does until ctx ends.
func (a *agent) run(ctx context.Context) error {
	addresses := health.Addresses{Health: a.cfg.HealthAddress, Metrics: a.cfg.MetricsAddress}
	server, err := health.Listen(addresses, a.node.Status(), a.metrics, a.log, append(a.also(), a.told.Health)...)
	if err != nil {
		return err
	}
	about := api.About{
		BGP: a.routes.about, Services: a.proxied.about, Policies: a.enforced.about, Status: a.asked.Status, Addresses: holdings{a.cfg, a.pods, a.keeper},
		Nodes: a.peers(), Dump: a.dump(),
	}
	questions, err := api.Listen(a.cfg.RunDir, about, a.log)
	if err != nil {
		return err
	}
	a.log.Info("twilld starts", "version", version, "node", a.cfg.NodeName, "backend", a.cfg.Backend)
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		server.Run, questions.Run, a.keeper.Run, a.proxied.Run, a.enforced.Run, a.named.Run,
		func(ctx context.Context) error { return a.told.failed(a.node.Run(ctx)) },
		func(ctx context.Context) error {
			return a.told.Run(ctx, a.node.Status(), a.enforced.Amiss, a.also()...)
		},
		func(ctx context.Context) error { return a.shown.run(ctx, about) },
		func(ctx context.Context) error { return a.routes.Run(ctx, a.datastore) },
		func(ctx context.Context) error { return publishPods(ctx, a.cfg, a.pods, a.datastore) },
	} {
		g.Go(func() error { return run(ctx) })
	}
	err = g.Wait()
	a.log.Info("twilld ends; what it programmed stays in the kernel")
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
		Policy:       policyTable(cfg),
		Log:          log,

		ClusterDomain: clusterDomain(cfg),
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
