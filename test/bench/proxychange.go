package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func runProxyChange(b bench) error { return withProxies(b, b.endpointChanges) }

// changes is what a number of changes took and cost.
type changes struct {
	after    samples // from the end of the API's write to the first packet at the new endpoint
	all      samples // the same from the beginning of the write
	cpu      time.Duration
	elements float64
}

// endpointChanges moves the one endpoint of a Service among n others, which both proxies serve.
func (b bench) endpointChanges(ctx context.Context, w *proxyWorld) error {
	rows := [][]string{{"one endpoint changes", "p50", "p99", "with the API's write p50", "p99", "CPU a change", "elements a change"}}
	moved := madeUp{number: uncommon, endpoints: endpointAddrs(uncommon*endpointsEach, 1)}
	if err := w.api.add(ctx, moved); err != nil {
		return err
	}
	var rivals []*proxied
	for _, name := range []string{kubeProxy, twill} {
		r, err := w.start(ctx, name)
		if err != nil {
			return err
		}
		rivals = append(rivals, r)
	}
	defer func() { _ = rivals[len(rivals)-1].stop() }() // the sandbox goes next
	for _, services := range []int{100, 1000, 10_000, 50_000} {
		n := b.scale(services)
		if services == 50_000 {
			if err := rivals[0].stop(); err != nil {
				return err
			}
			rivals = rivals[1:]
		}
		if err := w.api.grow(ctx, n); err != nil {
			return err
		}
		for _, r := range rivals {
			if _, err := r.serves(n); err != nil {
				return err
			}
		}
		for _, pause := range []time.Duration{0, 1500 * time.Millisecond} {
			for _, r := range rivals {
				if pause > 0 && r.name == twill {
					continue // it makes no difference
				}
				c, err := b.change(ctx, w, r, &moved, pause)
				if err != nil {
					return err
				}
				rows = append(rows, c.row(fmt.Sprintf("%s, %d Services", r.name, n), pause))
			}
		}
	}
	table(rows...)
	return nil
}

func (c changes) row(name string, pause time.Duration) []string {
	if pause > 0 {
		name += ", after a rest"
	}
	n := len(c.after)
	elements := "-"
	if c.elements > 0 {
		elements = fmt.Sprintf("%.1f", c.elements/float64(n))
	}
	return []string{name, ms(c.after.quantile(.5)), ms(c.after.quantile(.99)), ms(c.all.quantile(.5)), ms(c.all.quantile(.99)),
		ms(c.cpu / time.Duration(n)), elements}
}

// change moves the endpoint some times, one after the other, or with a pause before each.
func (b bench) change(ctx context.Context, w *proxyWorld, r *proxied, m *madeUp, pause time.Duration) (c changes, err error) {
	times := b.scale(100)
	if r.name == kubeProxy {
		times = b.scale(20)
	}
	cpu, err := r.rest()
	if err != nil {
		return c, err
	}
	elements, err := r.metric(ctx, "twill_proxy_elements_written_total")
	if err != nil {
		return c, err
	}
	for range max(times, 3) {
		time.Sleep(pause)
		next := addrAfter(m.endpoints[0], 1)
		m.endpoints[0] = next
		began := time.Now()
		if err := move(ctx, w.kube, *m); err != nil {
			return c, err
		}
		written := time.Now()
		var at time.Time
		err := r.node.inClient(func() (err error) {
			at, err = r.node.until(m.at(), func(c call) bool { return c.reached == next }, 200*time.Microsecond)
			return err
		})
		if err != nil {
			return c, r.failed(err)
		}
		c.after, c.all = append(c.after, max(0, at.Sub(written))), append(c.all, at.Sub(began))
	}
	used, err := r.rest()
	c.cpu = used - cpu
	now, metricErr := r.metric(ctx, "twill_proxy_elements_written_total")
	c.elements = now - elements
	return c, errors.Join(err, metricErr)
}
