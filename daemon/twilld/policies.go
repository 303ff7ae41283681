//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/policy"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// How many refused packets the kernel tells of in a second, for each of three reasons, and how many at once.
const (
	dropLogRate  = 100
	dropLogBurst = 200
)

// policiesWait is how long an announcement waits for policies, which come to be programmed at the same time.
const policiesWait = 2 * time.Second

// policyTable is what the table of policies depends on, but for the networks of the node's pods; nil: policies are not enforced.
func policyTable(cfg *config.Config) *gate.Config {
	if cfg.Policy != "on" {
		return nil
	}
	return &gate.Config{Bridge: node.Bridge, CutMark: cfg.PolicyCutMark, LogGroup: cfg.PolicyLogGroup, LogRate: dropLogRate, LogBurst: dropLogBurst}
}

// policies is the enforcement of policies with what feeds it. With --policy=off it does nothing but remove the table, whoever made it.
type policies struct {
	cfg      *config.Config
	k        kernels
	pods     *podHost
	log      *slog.Logger
	enforcer *policy.Enforcer // nil: off
	flaws    *policy.Flaws    // nil: likewise
	off      *syncloop.Loop   // nil: on

	mu         sync.Mutex
	ipv4, ipv6 bool  // the families of pods
	loose      error // why packets between pods of the node pass the table by
}

var connections = policy.Conntrack{Remark: conntrack.Remark}

// openPolicies makes the enforcer.
func openPolicies(cfg *config.Config, k kernels, pods *podHost, with neighbours) *policies {
	p := &policies{cfg: cfg, k: k, pods: pods, log: pods.log}
	table := policyTable(cfg)
	if table == nil {
		p.off = syncloop.New("policies that are switched off", p.log)
		return p
	}
	registry := with.metrics.Registry()
	p.flaws = policy.NewFlaws(with.datastore.policies, registry, pods.log, jitter)
	p.enforcer = policy.New(policy.Options{
		Source:     p.flaws,
		Kernel:     k.tables,
		Conntrack:  connections,
		Drops:      policy.Listen(cfg.PolicyLogGroup),
		CountDrops: policy.CountDrops(registry, k.tables),
		Records:    pods.Records,
		NodeAddrs:  k.links.Addresses,
		Hold:       func(ctx context.Context) (func(), error) { return gate.Hold(ctx, cfg.RunDir) },
		OwnPods:    with.datastore.kube == nil,
		Network:    hostfile.NetworkName,
		NodeName:   cfg.NodeName,
		Table:      *table,
		Metrics:    policy.NewMetrics(registry),
		Log:        pods.log,
		Jitter:     jitter,
	})
	return p
}

// Run enforces policies until ctx ends.
func (p *policies) Run(ctx context.Context) error {
	if p.off != nil {
		p.keepOff(ctx)
		return nil
	}
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.enforcer.Run(ctx) })
	g.Go(func() error { return p.pods.watchRecords(ctx, changed) })
	g.Go(func() error {
		p.keepBridged(ctx)
		return nil
	})
	g.Go(func() error { return gate.Serve(ctx, gate.SocketPath(p.cfg.RunDir), p.enforcer.Answer, p.log) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				p.enforcer.ObserveRecords()
			}
		}
	})
	return g.Wait()
}

const (
	// offPeriod is how often a table of policies that are switched off is looked for; the kernel tells of one before.
	offPeriod = 5 * time.Minute
	// offSpacing bounds what it costs when another program keeps making one.
	offSpacing = 200 * time.Millisecond
)

// keepOff removes the table that an earlier run left, and one that comes later: of a plugin or a daemon that ends late, or that somebody restores.
func (p *policies) keepOff(ctx context.Context) {
	p.off.Nudge()
	p.off.Run(ctx, func(ctx context.Context) (time.Duration, error) { return offSpacing, p.remove(ctx) },
		func() time.Duration { return offPeriod + jitter(offPeriod/8) }, p.off.Nudge)
}

// remove removes the table, and the mark from connections, when there is a table.
func (p *policies) remove(ctx context.Context) error {
	names, err := p.k.tables.TableNames(ctx)
	if err != nil || !slices.Contains(names, gate.TableName) {
		return err
	}
	return errors.Join(p.k.tables.SyncTables(ctx, nil, []string{gate.TableName}), policy.Unmark(ctx, connections, p.cfg.PolicyCutMark))
}

// about is what the daemon's socket answers of.
func (p *policies) about() api.Policies {
	if p.enforcer == nil {
		return nil
	}
	return policy.NewInspector(p.enforcer, p.k.reader)
}

// Observe hands on the kernel's notifications.
func (p *policies) Observe(ev kernel.Event) {
	switch {
	case p.enforcer != nil:
		p.enforcer.Observe(ev)
	case ev.Lost || ev.Kind == kernel.KindTable && ev.Table == gate.TableName:
		p.off.Nudge()
	}
}

// Ready returns nil when policies are enforced, or not wanted.
func (p *policies) Ready() error {
	if p.enforcer == nil {
		return nil
	}
	return errors.Join(p.bypassed(), p.enforcer.Ready())
}

// Amiss returns what a person has to mend though the node is ready: policies that are not understood.
func (p *policies) Amiss() error {
	if p.flaws == nil {
		return nil
	}
	return p.flaws.Amiss()
}

// bypassed returns why packets between pods of the node pass the table by; nil: they do not.
func (p *policies) bypassed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loose
}

// setNetworks tells the networks of this node's pods.
func (p *policies) setNetworks(own store.Subnets) {
	if p.enforcer != nil {
		p.enforcer.SetNodePods(valid(own.IPv4, own.IPv6))
	}
}

// bridged is the feature without which packets between pods of one node do not meet policies.
var bridged = kernel.Feature{Name: "netfilter for bridged packets, without which policies cannot keep pods of one node apart",
	Module: "br_netfilter", Option: "CONFIG_BRIDGE_NETFILTER"}

// prepareHost makes packets between pods of the node meet policies.
func (p *policies) prepareHost(ipv4, ipv6 bool) error {
	if p.enforcer == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ipv4, p.ipv6 = ipv4, ipv6
	return p.bridge()
}

// bridge is for who holds mu.
func (p *policies) bridge() error {
	ok, err := p.k.links.EnsureBridgeNetfilter(p.ipv4, p.ipv6)
	if err == nil && !ok {
		err = &store.Trouble{Reason: store.ReasonKernelFeatureMissing, Err: &kernel.LackError{Feature: bridged, Err: kernel.ErrUnsupported}}
	}
	p.loose = err
	return err
}

// bridgePeriod is how often the settings of the bridge are looked at: no notification tells that somebody changed them (`sysctl --system` does, when a
// file of another program's says so), and until then pods of the node are open to each other.
const bridgePeriod = 5 * time.Second

// keepBridged keeps packets between pods of the node meeting policies, until ctx ends.
func (p *policies) keepBridged(ctx context.Context) {
	tick := time.NewTicker(bridgePeriod)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		err := p.bridge()
		p.mu.Unlock()
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			p.log.Error("pods of this node are open to each other", "err", err)
		}
	}
}

// policed is the host of a node that enforces policies: the container runtime is told of the node once they are programmed.
type policed struct {
	*hostfile.Host
	policies *policies
}

// Announce waits for policies for a while: they come to be programmed while the node does.
func (h policed) Announce(a node.Announcement) error {
	if e := h.policies.enforcer; e != nil {
		if err := h.policies.bypassed(); err != nil {
			return fmt.Errorf("pods cannot be attached yet: %w", err)
		}
		late := time.NewTimer(policiesWait)
		defer late.Stop()
		select {
		case <-e.Programmed():
		case <-late.C:
			return fmt.Errorf("pods cannot be attached yet: %w", e.Ready())
		}
	}
	return h.Host.Announce(a)
}
