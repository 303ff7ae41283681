package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

func runProxyConnect(b bench) error { return withProxies(b, b.connections) }

// target is where calls go, and how they went.
type target struct {
	name  string
	r     *proxied
	to    []netip.AddrPort // in turns
	from  []netip.Addr     // in turns
	took  samples
	spent time.Duration // for all of it, closing included
}

// call makes n connections.
func (t *target) call(n int) error {
	return t.r.node.inClient(func() error {
		start := time.Now()
		for i := range n {
			c, err := t.r.node.call(t.from[i%len(t.from)], t.to[i%len(t.to)], time.Second)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, t.r.failed(err))
			}
			t.took = append(t.took, c.took)
		}
		t.spent += time.Since(start)
		return nil
	})
}

func (t *target) row() []string {
	return []string{t.name, us(t.took.quantile(.5)), us(t.took.quantile(.99)), fmt.Sprintf("%.0f", float64(len(t.took))/t.spent.Seconds())}
}

// callAll has the targets take turns.
func (b bench) callAll(targets []*target) error {
	for range 10 {
		for _, t := range targets {
			if err := t.call(b.scale(1000)); err != nil {
				return err
			}
		}
	}
	return nil
}

// connections measures how long a connection through a ClusterIP takes among n Services, beside one straight to an endpoint.
func (b bench) connections(ctx context.Context, w *proxyWorld) error {
	rows := [][]string{{"connections", "p50", "p99", "a second"}}
	var rivals []*proxied
	for _, name := range []string{kubeProxy, twill} {
		r, err := w.start(ctx, name)
		if err != nil {
			return err
		}
		rivals = append(rivals, r)
	}
	defer func() { _ = rivals[len(rivals)-1].stop() }() // the sandbox goes next
	var few, many *target                               // of twilld
	for _, services := range []int{10, 1000, 10_000, 50_000} {
		n := max(b.scale(services), 10)
		if services == 50_000 {
			if err := rivals[0].stop(); err != nil {
				return err
			}
			rivals = rivals[1:]
		}
		if err := w.api.grow(ctx, n); err != nil {
			return err
		}
		targets, err := callTargets(rivals, n)
		if err == nil {
			err = b.callAll(targets)
		}
		if err != nil {
			return err
		}
		for _, t := range targets {
			rows = append(rows, t.row())
		}
		last := len(targets) - 2 // twilld's
		if many = targets[last]; few == nil {
			few = many
		}
		if len(rivals) == 2 {
			rows = append(rows, versus("  kube-proxy / twilld", targets[0], many))
		}
	}
	table(append(rows, versus("  twilld, most / fewest", many, few))...)
	return nil
}

// callTargets waits until all proxies serve n Services, and returns what is called: through each of them, and past the last.
func callTargets(rivals []*proxied, n int) ([]*target, error) {
	through, past := &target{}, &target{name: fmt.Sprintf("no Service, past %d", n)}
	for i := range min(n, spread) {
		m := common(i * n / min(n, spread))
		through.to = append(through.to, m.at())
		past.to = append(past.to, netip.AddrPortFrom(m.endpoints[0], endpointPort))
	}
	var targets []*target
	for _, r := range rivals {
		if _, err := r.serves(n); err != nil {
			return nil, err
		}
		if _, err := r.rest(); err != nil {
			return nil, err
		}
		targets = append(targets, &target{name: fmt.Sprintf("%s, %d Services", r.name, n), r: r, to: through.to, from: []netip.Addr{firstClient}})
	}
	// From another address: a port that a connection through a Service has had lately would be translated.
	past.r, past.from = rivals[len(rivals)-1], []netip.Addr{addrAfter(firstClient, 1)}
	return append(targets, past), nil
}

func versus(name string, a, b *target) []string {
	return []string{name, ratio(a.took.quantile(.5), b.took.quantile(.5)), ratio(a.took.quantile(.99), b.took.quantile(.99)),
		ratio(float64(len(a.took))/a.spent.Seconds(), float64(len(b.took))/b.spent.Seconds())}
}

func runProxyAffinity(b bench) error { return withProxies(b, b.affinity) }

// affinity measures connections of clients that are new, and of those that come again, to a Service with affinity and few or many endpoints.
func (b bench) affinity(ctx context.Context, w *proxyWorld) (err error) {
	sizes := []int{10, b.scale(1000)}
	var sticky []madeUp
	for i, n := range sizes {
		sticky = append(sticky, madeUp{number: uncommon + i, endpoints: endpointAddrs((uncommon+i*1000)*endpointsEach, n), sticky: true})
	}
	if err := errors.Join(w.api.add(ctx, sticky...), w.api.grow(ctx, 1)); err != nil {
		return err
	}
	var rows [][]string
	targets := map[string][2][]*target{} // by rival: first, again
	for _, name := range []string{kubeProxy, twill} {
		r, err := w.start(ctx, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.stop()) }()
		if _, err := r.serves(1); err != nil {
			return err
		}
		if targets[name], err = b.stickyCalls(r, sticky); err != nil {
			return err
		}
	}
	for i, what := range []string{"first connection", "later ones"} {
		rows = append(rows, []string{what, "p50", "p99", "a second"})
		for _, name := range []string{kubeProxy, twill} {
			t := targets[name][i]
			rows = append(rows, t[0].row(), t[1].row(), versus(fmt.Sprintf("  %d / %d endpoints", sizes[1], sizes[0]), t[1], t[0]))
		}
		rows = append(rows, versus(fmt.Sprintf("  kube-proxy / twilld, %d endpoints", sizes[1]), targets[kubeProxy][i][1], targets[twill][i][1]))
	}
	table(rows...)
	return nil
}

// stickyCalls calls every Service from many clients once, and again.
func (b bench) stickyCalls(r *proxied, sticky []madeUp) (first [2][]*target, err error) {
	var clients []netip.Addr
	for i := range b.scale(5000) {
		clients = append(clients, addrAfter(firstClient, 2+i))
	}
	for _, m := range sticky {
		// The first two clients are of the rig's own.
		err := r.node.inClient(func() error {
			_, err := r.node.until(m.at(), func(call) bool { return true }, 5*time.Millisecond)
			return err
		})
		if err != nil {
			return first, r.failed(err)
		}
		t := target{name: fmt.Sprintf("%s, %d endpoints", r.name, len(m.endpoints)), r: r, to: []netip.AddrPort{m.at()}}
		once, again := t, t
		first[0], first[1] = append(first[0], &once), append(first[1], &again)
	}
	if _, err := r.rest(); err != nil {
		return first, err
	}
	for chunk := range slices.Chunk(clients, 250) { // in turns
		for _, kind := range first {
			for _, t := range kind {
				t.from = chunk
				if err := t.call(len(chunk)); err != nil {
					return first, err
				}
			}
		}
	}
	return first, nil
}
