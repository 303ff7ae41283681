package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/ping"
)

// A place is where a program runs and by which address it is reached: a pod or a node of a lab.
type place struct {
	addr    netip.Addr
	do      func(func() error) error
	command func(ctx context.Context, name string, args ...string) *lab.Cmd
}

// runOverlay compares the way between two pods on two nodes with the way between the nodes. The nodes' links are veth pairs, so
// that what shows is the processor's work for the encapsulation, bridge and routing.
func runOverlay(b bench) error {
	return b.withLab(lab.Options{Nodes: 2, PodsPerNode: 1}, func(ctx context.Context, l *lab.Lab) error { return b.compareWays(ctx, l, 50) })
}

// withLab makes a lab in the sandbox, measures in it and removes it.
func (b bench) withLab(options lab.Options, measure func(context.Context, *lab.Lab) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := settle(); err != nil {
		return err
	}
	options.Name, options.BinDir = "bench", b.bin
	l, err := lab.New(options)
	if err != nil {
		return err
	}
	if err := l.Up(ctx); err != nil {
		return err
	}
	err = measure(ctx, l)
	return errors.Join(err, l.Down(ctx))
}

// compareWays measures both ways in turns, each turn's throughput for so many tenths of a second.
func (b bench) compareWays(ctx context.Context, l *lab.Lab, tenths int) error {
	var pods, nodes []place
	for _, n := range l.Nodes() {
		nodes = append(nodes, place{n.Addrs()[0], n.Do, n.Command})
	}
	for _, p := range l.Pods() {
		pods = append(pods, place{p.Addrs()[0], p.Do, p.Command})
	}
	var rate [2][]float64
	var rtt [2]samples
	ways := [2][]place{nodes, pods}
	for range 5 { // in turns
		for i, way := range ways {
			bits, err := throughput(ctx, way[0], way[1], b.scale(tenths))
			if err != nil {
				return err
			}
			rate[i] = append(rate[i], bits)
			took, err := roundTrips(ctx, way[0], way[1].addr, b.scale(2000))
			if err != nil {
				return err
			}
			rtt[i] = append(rtt[i], took...)
		}
	}
	underlay, overlay := median(rate[0]), median(rate[1])
	table(
		[]string{"", "TCP throughput", "round trip p50", "p99"},
		[]string{"node to node", gbit(underlay), us(rtt[0].quantile(.5)), us(rtt[0].quantile(.99))},
		[]string{"pod to pod", gbit(overlay), us(rtt[1].quantile(.5)), us(rtt[1].quantile(.99))},
		[]string{"  pod / node", ratio(overlay, underlay), ratio(rtt[1].quantile(.5), rtt[0].quantile(.5)), ratio(rtt[1].quantile(.99), rtt[0].quantile(.99))},
	)
	return nil
}

// throughput runs iperf3 with one TCP stream for so many tenths of a second and returns the received bits per second.
func throughput(ctx context.Context, from, to place, tenths int) (float64, error) {
	server := to.command(ctx, "iperf3", "--server", "--one-off")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = server.Process.Kill() // a test that is over needs no server, also where the client gave up
		_ = server.Wait()
	}()
	var out []byte
	err := errors.New("not tried")
	for deadline := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(deadline); { // until the server listens
		out, err = from.command(ctx, "iperf3", "--client", to.addr.String(), "--json", "--time", fmt.Sprint(max(tenths/10, 1))).Output()
	}
	if err != nil {
		return 0, fmt.Errorf("iperf3 to %s: %w: %s", to.addr, err, out)
	}
	var report struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	err = json.Unmarshal(out, &report)
	return report.End.SumReceived.BitsPerSecond, err
}

// roundTrips sends n echo requests, one after the other.
func roundTrips(ctx context.Context, from place, to netip.Addr, n int) (samples, error) {
	var took samples
	err := from.do(func() error {
		c, err := ping.Listen(to)
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			rtt, err := c.Echo(ctx, to, 56)
			if err != nil {
				return err
			}
			took = append(took, rtt)
		}
		return nil
	})
	return took, err
}

func median(values []float64) float64 {
	var s samples
	for _, v := range values {
		s = append(s, time.Duration(v))
	}
	return float64(s.quantile(.5))
}

func gbit(bits float64) string { return fmt.Sprintf("%.2f Gbit/s", bits/1e9) }
