//go:build linux

package main

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/gauge"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/page"
	"github.com/twill-cni/twill/store"
)

// shown is the web page with what it measures. Without --page it does nothing.
type shown struct {
	cfg   *config.Config
	log   *slog.Logger
	gauge *gauge.Gauge // nil: off
}

func openPage(cfg *config.Config, metrics *health.Metrics, log *slog.Logger) *shown {
	s := &shown{cfg: cfg, log: log}
	if cfg.Page != "" {
		s.gauge = gauge.New(cfg.NodeName, log)
		metrics.Registry().MustRegister(s.gauge)
	}
	return s
}

// listen opens the page, and returns what runs it and its measurements.
func (s *shown) listen(about api.About) (func(context.Context) error, error) {
	if s.gauge == nil {
		return func(context.Context) error { return nil }, nil
	}
	server, err := page.Listen(page.Options{Address: s.cfg.Page, Node: s.cfg.NodeName, RunDir: s.cfg.RunDir, About: about, Peers: s.gauge.Peers, Log: s.log})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return server.Run(ctx) })
		g.Go(func() error { return s.gauge.Run(ctx) })
		return g.Wait()
	}, nil
}

// setNetworks tells the networks of this node's pods.
func (s *shown) setNetworks(own store.Subnets) {
	if s.gauge != nil {
		s.gauge.SetSelf(own)
	}
}

// overheard is a Store whose snapshots the page's measurements are told, too.
type overheard struct {
	store.Store
	by *shown
}

func (o overheard) Watch(ctx context.Context, emit func(store.Snapshot)) error {
	if o.by.gauge == nil {
		return o.Store.Watch(ctx, emit)
	}
	return o.Store.Watch(ctx, func(snap store.Snapshot) {
		o.by.gauge.SetLeases(snap.Leases)
		emit(snap)
	})
}
