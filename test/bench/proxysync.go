package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

func runProxySync(b bench) error { return withProxies(b, b.firstSyncs) }

// firstSync is one start of a proxy.
type firstSync struct {
	trial
	own time.Duration // what the proxy itself says that its sync took
}

// firstSyncs measures starts of both proxies, in turns, on nodes that are new.
func (b bench) firstSyncs(ctx context.Context, w *proxyWorld) error {
	rows := [][]string{{"first sync", "time", "the sync itself", "CPU", "peak memory"}}
	for _, stage := range []struct {
		services int
		starts   map[string]int
	}{
		{1000, map[string]int{kubeProxy: 3, twill: 3, fromEtcd: 3}},
		{10_000, map[string]int{kubeProxy: 1, twill: 3, fromEtcd: 3}},
		{50_000, map[string]int{twill: 3, fromEtcd: 3}},
	} {
		n := b.scale(stage.services)
		if err := errors.Join(w.api.grow(ctx, n), w.plain.grow(ctx, n)); err != nil {
			return err
		}
		got := map[string][]firstSync{}
		for turn := range 3 {
			for _, name := range []string{kubeProxy, twill, fromEtcd} {
				if turn >= stage.starts[name] {
					continue
				}
				s, err := w.firstSync(ctx, name, n)
				if err != nil {
					return err
				}
				got[name] = append(got[name], s)
			}
		}
		rows = append(rows, firstSyncRows(n, got)...)
	}
	table(rows...)
	return nil
}

func firstSyncRows(n int, got map[string][]firstSync) [][]string {
	var rows [][]string
	for _, name := range []string{kubeProxy, twill, fromEtcd} {
		if len(got[name]) == 0 {
			continue
		}
		s := middleSync(got[name])
		rows = append(rows, []string{fmt.Sprintf("%s, %d Services", name, n), ms(s.wall), ms(s.own), ms(s.cpu), mib(s.peak)})
	}
	if len(got[kubeProxy]) > 0 {
		theirs, ours := middleSync(got[kubeProxy]), middleSync(got[twill])
		rows = append(rows, []string{"  kube-proxy / twilld", ratio(theirs.wall, ours.wall), ratio(theirs.own, ours.own),
			ratio(theirs.cpu, ours.cpu), ratio(theirs.peak, ours.peak)})
	}
	return rows
}

// middleSync returns the start with the median time.
func middleSync(all []firstSync) firstSync {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b firstSync) int { return cmp.Compare(a.wall, b.wall) })
	return sorted[len(sorted)/2]
}

// firstSync measures from the start of the process until n Services answer.
func (w *proxyWorld) firstSync(ctx context.Context, name string, n int) (s firstSync, err error) {
	r, err := w.start(ctx, name)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	at, err := r.serves(n)
	if err != nil {
		return s, err
	}
	if s.own, err = r.syncTook(ctx); err != nil {
		return s, err
	}
	used, err := processUsage(r.pid)
	s.trial = trial{at.Sub(r.started), used.cpu, used.peak}
	return s, err
}

// syncTook waits until the proxy's metrics know how long its first sync took: packets can be ahead of it, and of the end of the
// programs that it runs.
func (r *proxied) syncTook(ctx context.Context) (time.Duration, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		seconds, err := r.metric(ctx, "kubeproxy_sync_full_proxy_rules_duration_seconds_sum")
		if err != nil {
			return 0, r.failed(err)
		}
		if seconds > 0 {
			return time.Duration(seconds * float64(time.Second)), nil
		}
	}
	return 0, r.failed(fmt.Errorf("its metrics tell of no sync after %s", limit))
}
