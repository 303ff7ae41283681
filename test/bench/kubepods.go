package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"
)

// runKubePods has a Kubernetes of two machines: one gets its network from Twill as deploy/ installs it, the other one from flanneld beside
// kube-proxy. What is measured is a Node that becomes Ready, Pods that begin to run, and Pods that go.
func runKubePods(b bench) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	world, err := launchPodWorld(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.close()) }()
	for _, measure := range []func(context.Context) error{world.nodes, world.warm, world.oneByOne, world.atOnce} {
		if err := measure(ctx); err != nil {
			return world.explain(err)
		}
	}
	world.print()
	return nil
}

// podRival is a way to give the Pods of a machine a network, with what was measured.
type podRival struct {
	nodeNetwork
	name     string
	ready    samples    // from the DaemonSet to the Ready Node
	one, all podFigures // one Pod after the other, and many at once
}

// podFigures are those of one way to make Pods.
type podFigures struct {
	run       samples // from Scheduled to Running, as a client of the API sees it
	add, del  samples // in the plugins
	gone      samples // from the API's answer to the deletion of all until the last one is gone
	left      int     // lines of the machine's state that were not there before
	forgotten samples // until nothing of that was there any more
}

// nodes measures from the DaemonSet to the Ready Node, on machines that have just booted.
func (w *podWorld) nodes(ctx context.Context) error {
	for turn := range w.scale(5) {
		for _, r := range w.rivals {
			if turn > 0 {
				if err := w.renew(ctx, r); err != nil {
					return err
				}
			}
			took, err := w.install(ctx, r)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			r.ready = append(r.ready, took)
		}
	}
	return nil
}

// warm makes a few Pods on each machine, since the first one also makes the bridge, and puts the clock around the plugins.
func (w *podWorld) warm(ctx context.Context) error {
	for _, r := range w.rivals {
		err := r.clock(ctx)
		if err == nil {
			_, err = w.make(ctx, r, 2, true)
		}
		if err == nil {
			_, err = w.remove(ctx, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// oneByOne makes Pods, each when the one before runs. The rivals take turns. Then all of a machine are removed.
func (w *podWorld) oneByOne(ctx context.Context) error {
	const turns = 4
	for _, r := range w.rivals {
		if err := r.remember(ctx); err != nil {
			return err
		}
	}
	for range turns {
		for _, r := range w.rivals {
			took, err := w.make(ctx, r, w.scale(40)/turns, false)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			r.one.run = append(r.one.run, took...)
		}
	}
	for _, r := range w.rivals {
		if err := w.clear(ctx, r, &r.one); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// atOnce makes all Pods of a machine at once, and removes them at once.
func (w *podWorld) atOnce(ctx context.Context) error {
	for range w.scale(3) {
		for _, r := range w.rivals {
			err := r.remember(ctx)
			if err == nil {
				var took samples
				took, err = w.make(ctx, r, w.scale(40), true)
				r.all.run = append(r.all.run, took...)
			}
			if err == nil {
				err = w.clear(ctx, r, &r.all)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return nil
}

// clear removes all Pods of a machine, and notes how long that took, what was left, and what the plugins needed for these Pods.
func (w *podWorld) clear(ctx context.Context, r *podRival, f *podFigures) error {
	took, err := w.remove(ctx, r)
	if err != nil {
		return err
	}
	f.gone = append(f.gone, took)
	took, left, err := w.leftovers(ctx, r)
	if err != nil {
		return err
	}
	f.left += left
	f.forgotten = append(f.forgotten, took)
	add, del, err := r.clocked()
	if err != nil {
		return err
	}
	f.add, f.del = append(f.add, add...), append(f.del, del...)
	return nil
}

func (w *podWorld) print() {
	reference, own := w.rivals[0], w.rivals[1]
	share := func(s samples, of samples) string {
		return fmt.Sprintf("%.1f%%", 100*float64(s.quantile(.5))/float64(max(of.quantile(.5), time.Nanosecond)))
	}
	rows := [][]string{{"from the DaemonSet to the Ready Node", "p50", "max"}}
	for _, r := range w.rivals {
		rows = append(rows, []string{r.name, ms(r.ready.quantile(.5)), ms(r.ready.quantile(1))})
	}
	table(append(rows, []string{"  twill / reference", ratio(own.ready.quantile(.5), reference.ready.quantile(.5)), ratio(own.ready.quantile(1), reference.ready.quantile(1))})...)

	fmt.Println()
	of := func(r *podRival, how int) podFigures { return []podFigures{r.one, r.all}[how] }
	rows = [][]string{{"Pods", "Scheduled to Running p50", "p99", "ADD p50", "p99", "ADD's share of p50"}}
	removal := [][]string{{"removal", "all gone p50", "max", "DEL p50", "p99", "left", "for at most"}}
	for how, name := range []string{"one after the other", "all at once"} {
		for _, r := range w.rivals {
			f := of(r, how)
			rows = append(rows, []string{fmt.Sprintf("%s, %d Pods, %s", r.name, len(f.run), name), ms(f.run.quantile(.5)), ms(f.run.quantile(.99)),
				ms(f.add.quantile(.5)), ms(f.add.quantile(.99)), share(f.add, f.run)})
			removal = append(removal, []string{fmt.Sprintf("%s, made %s", r.name, name), ms(f.gone.quantile(.5)), ms(f.gone.quantile(1)),
				ms(f.del.quantile(.5)), ms(f.del.quantile(.99)), fmt.Sprint(f.left), ms(f.forgotten.quantile(1))})
		}
		a, b := of(own, how), of(reference, how)
		rows = append(rows, []string{"  twill / reference", ratio(a.run.quantile(.5), b.run.quantile(.5)), ratio(a.run.quantile(.99), b.run.quantile(.99)),
			ratio(a.add.quantile(.5), b.add.quantile(.5)), ratio(a.add.quantile(.99), b.add.quantile(.99)), ""})
		removal = append(removal, []string{"  twill / reference", ratio(a.gone.quantile(.5), b.gone.quantile(.5)), ratio(a.gone.quantile(1), b.gone.quantile(1)),
			ratio(a.del.quantile(.5), b.del.quantile(.5)), ratio(a.del.quantile(.99), b.del.quantile(.99)), "", ""})
	}
	table(rows...)
	fmt.Println()
	table(removal...)
}
