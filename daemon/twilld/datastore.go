//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/kube"
)

// datastore is where the daemon learns of the cluster: leases and what is said of this node, Services, and policies.
type datastore struct {
	store.Store // of leases
	services    store.ServiceSource
	policies    store.PolicySource

	etcd *etcd.Store  // nil when leases are in the Kubernetes API
	kube *kube.Client // nil without a Kubernetes API
}

// openDatastore makes the clients. Neither is asked for anything yet.
func openDatastore(cfg *config.Config, log *slog.Logger) (d datastore, err error) {
	leasesInKube := cfg.Datastore == "kube"
	if leasesInKube || cfg.Kubeconfig != "" {
		d.kube, err = kube.Open(kube.Config{
			Kubeconfig: cfg.Kubeconfig,
			Addresses:  cfg.KubeAPIAddresses,
			Node:       cfg.NodeName,
			NetConf:    cfg.NetConf,
			Peers:      leasesInKube,
		}, log)
		if err != nil {
			return d, usageError{fmt.Errorf("datastore kube: %w", err)}
		}
		d.services, d.policies = d.kube, d.kube
	}
	if leasesInKube {
		d.Store = d.kube
		return d, nil
	}
	d.etcd, err = etcd.Open(etcd.Config{
		Endpoints: cfg.EtcdEndpoints,
		Prefix:    cfg.EtcdPrefix,
		CAFile:    cfg.EtcdCAFile,
		CertFile:  cfg.EtcdCertFile,
		KeyFile:   cfg.EtcdKeyFile,
		Username:  cfg.EtcdUsername,
		Password:  cfg.EtcdPassword.Reveal(),

		PasswordFile: cfg.EtcdPasswordFile,
	}, log)
	if err != nil {
		return d, errors.Join(usageError{fmt.Errorf("etcd: %w", err)}, d.closeKube())
	}
	d.Store = d.etcd
	if d.services == nil {
		d.services, d.policies = d.etcd, d.etcd
	}
	return d, nil
}

// release gives the node's subnets back, or what it has published, and returns them.
func (d datastore) release(ctx context.Context, node store.Attributes) ([]store.Subnets, error) {
	if d.etcd != nil {
		return d.etcd.Release(ctx, node)
	}
	return d.kube.Release(ctx, node)
}

func (d datastore) closeKube() error {
	if d.kube == nil {
		return nil
	}
	return d.kube.Close()
}

// Close closes both.
func (d datastore) Close() error {
	if d.etcd == nil {
		return d.closeKube()
	}
	return errors.Join(d.etcd.Close(), d.closeKube())
}
