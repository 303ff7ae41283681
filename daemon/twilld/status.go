//go:build linux

package main

import (
	"errors"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/status"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/plugins/record"
)

func newStatus(a *agent) *status.Collector {
	return status.New(status.Options{
		Node: a.cfg.NodeName, Version: version, Backend: a.cfg.Backend, DatastoreKind: a.datastore.kind(),
		Ready:     a.Ready,
		Reached:   a.reached,
		Datastore: func() error { return a.datastore.Health() },
		BGP:       a.routes.about,
		Services:  a.proxied.progress,
		Policies:  a.enforced.progress,
		Addresses: a.pods.use,
		Pods:      func() (int, error) { return record.Count(a.cfg.RunDir) },
		Conntrack: func() (u api.ConntrackUse, err error) {
			u.Used, u.Max, err = conntrack.Use()
			return u, err
		},
	})
}

// reached counts the nodes that there is a way to.
func (a *agent) reached() int {
	if w := a.node.Wanted(); w != nil {
		return w.Reached()
	}
	return 0
}

// observers are told one after the other.
type observers []node.Observer

func (all observers) Synced(r node.Report) {
	for _, o := range all {
		o.Synced(r)
	}
}

// announced is a Host whose announcements are told, too.
type announced struct {
	node.Host
	to *status.Collector
}

func (a announced) Announce(what node.Announcement) error {
	a.to.Announced(what)
	return a.Host.Announce(what)
}

func (d datastore) kind() string {
	if d.etcd != nil {
		return "etcd"
	}
	return "kubernetes"
}

func (s *services) progress() *syncloop.State {
	if s.proxy == nil {
		return nil
	}
	state := s.proxy.Progress()
	return &state
}

func (p *policies) progress() *syncloop.State {
	if p.enforcer == nil {
		return nil
	}
	state := p.enforcer.Progress()
	return &state
}

// use counts the addresses that pods have.
func (h *podHost) use() ([]api.RangeUse, error) {
	_, config, store, err := h.store()
	if errors.Is(err, attachments.ErrNoNetwork) {
		return nil, nil // the node is not announced yet
	}
	if err != nil {
		return nil, err
	}
	leases, err := store.Leases()
	if err != nil {
		return nil, err
	}
	return usedOf(config, leases), nil
}

// usedOf counts what is taken of each range, whose gateway is none that a pod could have.
func usedOf(config ipam.Config, leases []ipam.Lease) []api.RangeUse {
	all := []api.RangeUse{}
	for _, set := range config.Sets {
		for _, r := range set {
			use := api.RangeUse{Range: r.String(), Size: r.Size()}
			if r.Contains(r.Gateway) {
				use.Size--
			}
			for _, l := range leases {
				for _, a := range l.Addresses {
					if r.Contains(a.Prefix.Addr()) {
						use.Used++
					}
				}
			}
			all = append(all, use)
		}
	}
	return all
}
