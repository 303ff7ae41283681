package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/ctl/lab"
)

// A leg leads from one place to another. What was measured on it is one value a turn, but for the round trips.
type leg struct {
	name     string
	from, to place
	rate     []float64       // bits per second, see throughput
	core     []float64       // the same, see oneCore
	wire     []float64       // as rate, on a wire of wireRate
	path     []time.Duration // see pathTime
	rtt      samples
}

// compareWays measures the way between two nodes, that between their pods, and the same ones by hand. All ways take turns.
func (b bench) compareWays(ctx context.Context, l *lab.Lab, backend string) (err error) {
	var nodes, pods []place
	for _, n := range l.Nodes() {
		nodes = append(nodes, place{n.Addrs()[0], n.Do, n.Command})
	}
	for _, p := range l.Pods() {
		pods = append(pods, place{p.Addrs()[0], p.Do, p.Command})
	}
	plain, err := byHand(ctx, l, "plain", backend, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	tracked, err := byHand(ctx, l, "tracked", backend, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tracked.close()) }()
	legs := []*leg{
		{name: "node to node", from: nodes[0], to: nodes[1]},
		{name: "pod to pod", from: pods[0], to: pods[1]},
		{name: "by hand, tracked: machine to machine", from: tracked.machines[0], to: tracked.machines[1]},
		{name: "by hand, tracked: pod to pod", from: tracked.pods[0], to: tracked.pods[1]},
		{name: "by hand: machine to machine", from: plain.machines[0], to: plain.machines[1]},
		{name: "by hand: pod to pod", from: plain.pods[0], to: plain.pods[1]},
	}
	for range b.scale(10) {
		for _, w := range legs {
			if err := w.measure(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	if err := limitWires(ctx, l); err != nil {
		return err
	}
	for range b.scale(5) {
		for _, w := range legs {
			rate, err := throughput(w.from, w.to, b.transfer())
			if err != nil {
				return fmt.Errorf("%s on a wire of %s: %w", w.name, wireRate, err)
			}
			w.wire = append(w.wire, rate)
		}
	}
	printLegs(legs)
	return nil
}

// wireRate is what two cores can fill that carry both ends of a connection, at any length of the way.
const wireRate = "5gbit"

// transfer is how long a turn sends.
func (b bench) transfer() time.Duration { return time.Duration(b.scale(1000)) * time.Millisecond }

// limitWires makes the cables of the underlay as slow as wireRate. A cable that is a veth pair has no rate of its own: with it, two cores do all
// the work of both machines and are the limit; with machines that have their own, it is the wire.
func limitWires(ctx context.Context, l *lab.Lab) error {
	return l.Underlay().Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list the underlay's links: %w", err)
		}
		for _, link := range links {
			if link.Type() != "veth" {
				continue
			}
			args := []string{"qdisc", "replace", "dev", link.Attrs().Name, "root", "tbf", "rate", wireRate, "burst", "256k", "latency", "20ms"}
			if out, err := exec.CommandContext(ctx, "tc", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("limit the rate of %s: %w: %s", link.Attrs().Name, err, out)
			}
		}
		return nil
	})
}

// measure is one turn.
func (l *leg) measure(ctx context.Context, b bench) error {
	rate, err := throughput(l.from, l.to, b.transfer())
	if err != nil {
		return err
	}
	took, err := roundTrips(ctx, l.from, l.to.addr, b.scale(2000))
	if err != nil {
		return err
	}
	path, err := pathTime(l.from, l.to.addr, b.scale(20000))
	if err != nil {
		return err
	}
	core, err := oneCore(l.from, l.to, b.scale(500))
	if err != nil {
		return err
	}
	l.core = append(l.core, core)
	l.rate, l.rtt, l.path = append(l.rate, rate), append(l.rtt, took...), append(l.path, path)
	return nil
}

func printLegs(legs []*leg) {
	rows := [][]string{{"", "TCP throughput", "5 Gbit/s wire", "on one core", "round trip p50", "p99", "the kernel's part"}}
	for _, w := range legs {
		rows = append(rows, []string{w.name, gbit(median(w.rate)), gbit(median(w.wire)), gbit(slices.Max(w.core)), us(w.rtt.quantile(.5)), us(w.rtt.quantile(.99)),
			fmt.Sprintf("%.2f us", float64(slices.Min(w.path))/1e3)})
	}
	node, pod, trackedPod, plainMachine, plainPod := legs[0], legs[1], legs[3], legs[4], legs[5]
	for _, r := range []struct {
		name string
		a, b *leg
	}{
		{"pod / node", pod, node},
		{"pod / by hand, tracked", pod, trackedPod},
		{"pod / by hand", pod, plainPod},
		{"by hand, tracked: pod / machine", trackedPod, legs[2]},
		{"by hand: pod / machine", plainPod, plainMachine},
	} {
		rows = append(rows, []string{"  " + r.name, fmt.Sprintf("%.2fx", medianRatio(r.a.rate, r.b.rate)), fmt.Sprintf("%.2fx", medianRatio(r.a.wire, r.b.wire)),
			ratio(slices.Max(r.a.core), slices.Max(r.b.core)), ratio(r.a.rtt.quantile(.5), r.b.rtt.quantile(.5)),
			ratio(r.a.rtt.quantile(.99), r.b.rtt.quantile(.99)), ratio(slices.Min(r.a.path), slices.Min(r.b.path))})
	}
	table(rows...)
}

// median returns the median.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// medianRatio returns the median of the ratios of each turn: a machine that gets slower for a while changes both sides of most.
func medianRatio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// pathTime returns how long the kernel takes to carry an echo request and its reply, with n of them in batches: the tenth part of batches
// was faster than that. Between namespaces of one machine the kernel does all of it before the call that sends returns, so that no
// program has to be woken, and what other programs do hardly matters.
func pathTime(from place, to netip.Addr, n int) (time.Duration, error) {
	const batch = 20
	var batches samples
	err := from.do(func() error {
		e, err := newEcho(to)
		if err != nil {
			return err
		}
		defer e.close()
		for range max(n/batch, 1) {
			start := time.Now()
			for range batch {
				if err := e.roundTrip(); err != nil {
					return err
				}
			}
			batches = append(batches, time.Since(start)/batch)
		}
		return nil
	})
	return batches.quantile(.1), err
}

func gbit(bits float64) string { return fmt.Sprintf("%.2f Gbit/s", bits/1e9) }
