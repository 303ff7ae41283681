//go:build linux

package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/plugins/record"
)

// watchAgain is the pause before the records' directory is watched again after that failed.
const watchAgain = time.Second

// publishPods tells the cluster which pods the node has, until ctx ends, so that Services with a selector find them on every node. Where there is a
// Kubernetes API, that is its business.
func publishPods(ctx context.Context, cfg *config.Config, pods *podHost, from datastore) error {
	if from.kube != nil {
		return nil
	}
	to, err := from.etcd.Pods(cfg.NodeName)
	if err != nil { // the node does all else with such a name
		pods.log.Warn("Services cannot select this node's pods: set --node-name", "err", err)
		return nil
	}
	changed := make(chan struct{}, 1)
	feed := &attachments.PodFeed{Records: pods.Records, Publish: to.Publish, Network: hostfile.NetworkName, Node: cfg.NodeName, Log: pods.log}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx, changed) })
	g.Go(func() error { return pods.watchRecords(ctx, changed) })
	g.Go(func() error {
		if err := to.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	return g.Wait()
}

// watchRecords puts something into changed whenever records may have changed.
func (h *podHost) watchRecords(ctx context.Context, changed chan<- struct{}) error {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		err := record.Watch(ctx, h.runDir, hostfile.NetworkName, func() {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
		})
		if ctx.Err() == nil {
			h.log.Warn("attachment records cannot be watched; trying again", "err", err)
		}
		again.Reset(watchAgain)
	}
}
