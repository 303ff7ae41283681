//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
)

// holdings answers who has the node's addresses.
type holdings struct {
	cfg    *config.Config
	pods   *podHost
	keeper *attachments.Keeper
}

// Addresses implements api.Addresses. A pod whose ADD or DEL runs is told as it is at this moment.
func (a holdings) Addresses(context.Context) (*api.AddressReport, error) {
	report := &api.AddressReport{Node: a.cfg.NodeName, Ranges: []api.RangeUse{}, Leases: []api.AddressLease{}, ReleaseDelay: a.cfg.PodReleaseDelay.Seconds()}
	_, conf, store, err := a.pods.store()
	if errors.Is(err, attachments.ErrNoNetwork) {
		return report, nil // the node is not announced yet
	}
	if err != nil {
		return nil, err
	}
	leases, err := store.Leases() // before the records: an ADD leases first
	if err != nil {
		return nil, err
	}
	records, err := a.pods.Records()
	if err != nil {
		return nil, err
	}
	report.Ranges = usedOf(conf, leases)
	attached := map[kernel.PodOwner]bool{}
	for _, r := range records {
		attached[r.Owner()] = attached[r.Owner()] || r.Network == hostfile.NetworkName
	}
	leased := map[kernel.PodOwner]bool{}
	for _, l := range leases {
		owner := kernel.PodOwner{ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName}
		leased[owner] = true
		report.Leases = append(report.Leases, a.lease(conf, l, attached[owner]))
	}
	for _, r := range records {
		if r.Network == hostfile.NetworkName && r.Complete && len(r.Addresses) > 0 && !leased[r.Owner()] {
			report.Unleased = append(report.Unleased, unleased(r))
		}
	}
	slices.SortFunc(report.Leases, func(x, y api.AddressLease) int {
		return slices.CompareFunc(x.Addresses, y.Addresses, netip.Addr.Compare)
	})
	return report, nil
}

func (a holdings) lease(conf ipam.Config, l ipam.Lease, attached bool) api.AddressLease {
	out := api.AddressLease{Container: l.Owner.ContainerID, Interface: l.Owner.IfName, Pod: l.Pod, Created: l.Created, Netns: l.Netns, Attached: attached}
	out.NetnsGone = l.Netns != "" && a.pods.NetnsGone(l.Netns, l.NetnsInode)
	for _, addr := range l.Addresses {
		ip := addr.Prefix.Addr()
		out.Addresses = append(out.Addresses, ip)
		inRange := slices.ContainsFunc(conf.Sets, func(s ipam.RangeSet) bool { _, ok := s.Find(ip); return ok })
		out.Outside = out.Outside || !inRange
	}
	return out
}

func unleased(r attachments.Record) api.AddressLease {
	out := api.AddressLease{Container: r.ContainerID, Interface: r.IfName, Pod: strings.TrimPrefix(r.Pod, "/"), Netns: r.Netns, Attached: true}
	for _, p := range r.Addresses {
		out.Addresses = append(out.Addresses, p.Addr())
	}
	return out
}

// ReleaseDead implements api.Addresses.
func (a holdings) ReleaseDead() { a.keeper.Resync() }
