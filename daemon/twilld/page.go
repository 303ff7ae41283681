//go:build linux

package main

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/gauge"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/page"
	"github.com/twill-cni/twill/daemon/syncloop"
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

// pageAgain is the pause before the page, or its measurements, are begun again after they failed.
const pageAgain = 5 * time.Second

// run serves the page and measures for it until ctx ends. What they cannot do keeps the node from nothing else: it is told of, and tried again.
func (s *shown) run(ctx context.Context, about api.About) error {
	if s.gauge == nil {
		return nil
	}
	var g errgroup.Group
	g.Go(func() error {
		return s.keep(ctx, "no web page at the moment; trying again", func(ctx context.Context) error { return s.serve(ctx, about) })
	})
	g.Go(func() error { return s.keep(ctx, "the web page has no new measurements; trying again", s.gauge.Run) })
	return g.Wait()
}

func (s *shown) serve(ctx context.Context, about api.About) error {
	server, err := page.Listen(page.Options{Address: s.cfg.Page, Node: s.cfg.NodeName, RunDir: s.cfg.RunDir, About: about, Peers: s.gauge.Peers, Log: s.log})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// keep calls run again and again until ctx ends. An error is logged when it is another one than the last. It returns nil.
func (s *shown) keep(ctx context.Context, failed string, run func(context.Context) error) error {
	told := ""
	for ctx.Err() == nil {
		err := run(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			s.log.Warn(failed, "err", err)
		}
		syncloop.Sleep(ctx, pageAgain)
	}
	return nil
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
