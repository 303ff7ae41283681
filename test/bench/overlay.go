package main

import (
	"context"
	"errors"
	"net/netip"
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

// runOverlay compares the way between two pods on two nodes with the way between the nodes, and with the same way made by hand. The
// nodes' links are veth pairs, so that what shows is the processor's work for the encapsulation, bridge and routing.
func runOverlay(b bench) error {
	return b.withLab(lab.Options{Nodes: 2, PodsPerNode: 1}, func(ctx context.Context, l *lab.Lab) error { return b.compareWays(ctx, l, lab.VXLAN) })
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
