//go:build linux

package main

import (
	"log/slog"

	"github.com/twill-cni/twill/daemon/peers"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/store"
)

func (a *agent) peers() *peers.Inspector {
	return peers.New(peers.Options{
		Node: a.cfg.NodeName, DatastoreKind: a.datastore.kind(), Datastore: a.datastore.lister(),
		Wanted: a.node.Wanted,
		Kernel: func() (peers.Reader, func() error, error) {
			k, err := linux.Open(slog.New(slog.DiscardHandler), linux.WithSysctlDir(a.cfg.SysctlDir))
			if err != nil {
				return nil, nil, err
			}
			return k, k.Close, nil
		},
		BGP: a.routes.about,
	})
}

func (d datastore) lister() store.NodeLister {
	if d.etcd != nil {
		return d.etcd
	}
	return d.kube
}
