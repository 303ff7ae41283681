package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func runProxyMemory(b bench) error { return withProxies(b, b.footprints) }

// footprint is what a proxy holds and uses while nothing happens.
type footprint struct {
	synced, rested, peak int64 // bytes
	share                float64
}

// footprints measures the memory of both proxies after their first sync and half a minute later, and what they use in between.
func (b bench) footprints(ctx context.Context, w *proxyWorld) error {
	n := b.scale(10_000)
	if err := w.api.grow(ctx, n); err != nil {
		return err
	}
	rows := [][]string{{fmt.Sprintf("%d Services", n), "memory after the first sync", "after half a minute", "peak", "idle: share of a core"}}
	var got []footprint
	for _, name := range []string{kubeProxy, twill} {
		f, err := w.footprint(ctx, name, n)
		if err != nil {
			return err
		}
		got = append(got, f)
		rows = append(rows, []string{name, mib(f.synced), mib(f.rested), mib(f.peak), fmt.Sprintf("%.3f%%", 100*f.share)})
	}
	theirs, ours := got[0], got[1]
	table(append(rows, []string{"  kube-proxy / twilld", ratio(theirs.synced, ours.synced), ratio(theirs.rested, ours.rested),
		ratio(theirs.peak, ours.peak), ratio(theirs.share, ours.share)})...)
	return nil
}

func (w *proxyWorld) footprint(ctx context.Context, name string, n int) (f footprint, err error) {
	r, err := w.start(ctx, name)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if _, err := r.serves(n); err != nil {
		return f, err
	}
	if _, err := r.rest(); err != nil {
		return f, err
	}
	before, err := processUsage(r.pid)
	if err != nil {
		return f, err
	}
	span := time.Duration(w.scale(30)) * time.Second
	time.Sleep(span)
	after, err := processUsage(r.pid)
	return footprint{before.rss, after.rss, after.peak, float64(after.cpu-before.cpu) / float64(span)}, err
}
