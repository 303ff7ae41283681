//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/proxy"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/linux"
	proxyconfig "github.com/twill-cni/twill/proxy/config"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// services is the service proxy with what feeds it. With --proxy=off it does nothing but remove the tables of an earlier run.
type services struct {
	cfg  *config.Config
	file *proxyconfig.Config
	k    kernels
	log  *slog.Logger

	datastore datastore
	routes    *routing // which announces the addresses of Services

	proxy *proxy.Proxy // nil: off

	mu     sync.Mutex
	host   proxy.Host
	known  uint8 // which parts of host are
	warned bool  // of bridge netfilter
}

// The parts of a proxy.Host, in services.known.
const (
	networksKnown = 1 << iota
	addressesKnown
)

// neighbours are the parts of the daemon that the proxy takes from and gives to.
type neighbours struct {
	datastore datastore
	routes    *routing
	metrics   *health.Metrics
}

// openServices reads the file and makes the proxy.
func openServices(cfg *config.Config, k kernels, with neighbours, log *slog.Logger) (*services, error) {
	s := &services{cfg: cfg, k: k, datastore: with.datastore, routes: with.routes, log: log}
	if cfg.Proxy == "off" {
		return s, nil
	}
	var err error
	if s.file, err = readProxyFile(cfg.ProxyConfig, log); err != nil {
		return nil, usageError{err}
	}
	s.proxy = proxy.New(proxy.Options{
		Source:    with.datastore.services,
		Kernel:    k.tables,
		Config:    s.file,
		NodeName:  cfg.NodeName,
		Conntrack: proxy.Conntrack{Flush: conntrack.Flush, Sweep: conntrack.Sweep, Each: conntrack.Each},
		Metrics:   proxy.NewMetrics(with.metrics.Registry()),
		Gatherer:  with.metrics.Registry(),
		Announce:  with.routes.offer,
		Log:       log,
	})
	return s, nil
}

// readProxyFile reads the file of --proxy-config, and names what has no effect.
func readProxyFile(name string, log *slog.Logger) (*proxyconfig.Config, error) {
	if name == "" {
		return proxyconfig.Default(), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("proxy-config: %w", err)
	}
	defer f.Close() // it was read only
	data, err := io.ReadAll(io.LimitReader(f, proxyconfig.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("proxy-config: %w", err)
	}
	c, unsupported, err := proxyconfig.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("proxy-config %s: %w", name, err)
	}
	for _, u := range unsupported {
		log.Warn("key of the service proxy's configuration has no effect", "file", name, "key", u.Key, "reason", u.Reason)
	}
	return c, nil
}

// Run is the proxy until ctx ends.
func (s *services) Run(ctx context.Context) error {
	if s.proxy == nil {
		s.routes.offer(nil)
		if err := s.k.tables.SyncTables(ctx, nil, []string{dnat.TableName}); err != nil && ctx.Err() == nil {
			s.log.Error("the tables of a service proxy that is switched off are still there", "err", err)
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.proxy.Run(ctx) })
	if s.datastore.kube == nil {
		g.Go(func() error { return s.followZone(ctx) })
	}
	return g.Wait()
}

// followZone tells the node's zone, which without Kubernetes is a label of its record in etcd.
func (s *services) followZone(ctx context.Context) error {
	err := s.datastore.WatchNode(ctx, s.cfg.NodeName, func(r store.NodeRecord) {
		s.set(0, func(h *proxy.Host) { h.Zone = r.Labels[store.ZoneLabel] })
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the node's record for its zone: %w", err)
}

// about is what the daemon's socket answers of.
func (s *services) about() api.Services {
	if s.proxy == nil {
		return nil
	}
	return proxy.NewInspector(s.proxy, s.k.reader)
}

// Observe hands on the kernel's notifications.
func (s *services) Observe(ev kernel.Event) {
	if s.proxy != nil {
		s.proxy.Observe(ev)
	}
}

// Ready returns nil when Services are served, or not wanted.
func (s *services) Ready() error {
	if s.proxy == nil {
		return nil
	}
	return s.proxy.Ready()
}

// setNetworks tells the networks of pods.
func (s *services) setNetworks(network store.Network, own store.Subnets) {
	s.set(networksKnown, func(h *proxy.Host) {
		h.PodNetworks = valid(network.IPv4.Network, network.IPv6.Network)
		h.NodePodNetworks = valid(own.IPv4, own.IPv6)
	})
}

// setUplink tells the node's addresses. Those for node ports are read from the kernel when the configuration selects them by networks.
func (s *services) setUplink(ctx context.Context, uplink kernel.Uplink) {
	if s.proxy == nil {
		return
	}
	var own []netip.Addr
	for _, v6 := range []bool{false, true} {
		if a := uplink.Addr(v6); a.IsValid() {
			own = append(own, a)
		}
	}
	var ports []netip.Addr
	if s.file.NodePortPrimary {
		ports = slices.Clone(own)
	}
	if networks := s.file.NodePortNetworks; len(networks) > 0 {
		all, err := s.k.links.Addresses(ctx)
		if err != nil {
			s.log.Error("node ports answer at the addresses known before", "err", err)
			return
		}
		for _, a := range all {
			if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) }) {
				ports = append(ports, a)
			}
		}
		slices.SortFunc(ports, netip.Addr.Compare)
		ports = slices.Compact(ports)
	}
	s.set(addressesKnown, func(h *proxy.Host) { h.Addrs, h.NodePortAddrs = own, ports })
}

func (s *services) set(part uint8, f func(*proxy.Host)) {
	if s.proxy == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.host)
	s.known |= part
	if s.known == networksKnown|addressesKnown {
		s.proxy.SetHost(s.host)
	}
}

// prepareHost makes the host fit for the proxy: replies between pods of one bridge have to pass netfilter.
func (s *services) prepareHost(ipv4, ipv6 bool) error {
	if s.proxy == nil {
		return nil
	}
	ok, err := s.k.links.EnsureBridgeNetfilter(ipv4, ipv6)
	if err != nil {
		return err
	}
	if !ok && !s.warned {
		s.log.Warn("br_netfilter is not loaded: a pod that is sent to a pod of its own node through a Service appears there with the node's " +
			"address, as its replies would not be translated back; run `modprobe br_netfilter` on the host and have it loaded at boot")
	}
	s.warned = !ok
	s.set(0, func(h *proxy.Host) { h.Bridged = !ok })
	c := s.file.Conntrack
	return s.k.links.EnsureConntrack(linux.ConntrackSettings{
		Max:            max(c.MaxPerCore*uint32(runtime.NumCPU()), c.Min),
		BeLiberal:      c.BeLiberal,
		TCPEstablished: c.TCPEstablished,
		TCPCloseWait:   c.TCPCloseWait,
		UDP:            c.UDP,
		UDPStream:      c.UDPStream,
	})
}
