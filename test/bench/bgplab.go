package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

// The numbers of autonomous systems: that of all nodes is the default of twilld's configuration.
const (
	nodesAS = 64512
	otherAS = 65001
)

// withBGPLab is withLab for a lab that routes.
func (b bench) withBGPLab(options lab.Options, measure func(context.Context, *lab.Lab) error) error {
	options.Backend = lab.BGP
	return b.withLab(options, measure)
}

// runBGPThroughput is runOverlay without the overlay.
func runBGPThroughput(b bench) error {
	return b.withBGPLab(lab.Options{Nodes: 2, PodsPerNode: 1}, func(ctx context.Context, l *lab.Lab) error { return b.compareWays(ctx, l, lab.BGP) })
}

// machine adds a machine to the underlay that is no node of the cluster: programs of others run there.
func machine(ctx context.Context, l *lab.Lab, name string) (*lab.Node, netip.Addr, error) {
	n, err := l.AddNode(ctx, lab.NodeOptions{Name: name, NoDaemon: true})
	if err != nil {
		return nil, netip.Addr{}, err
	}
	return n, n.Addrs()[0], nil
}

// unborn adds a node whose daemon has never run: SetDaemon and StartDaemon are its first start, with nothing on disk. args are more flags.
func unborn(ctx context.Context, l *lab.Lab, name string, args ...string) (*lab.Node, error) {
	n, err := l.AddNode(ctx, lab.NodeOptions{Name: name, Program: "/bin/true"})
	if err != nil {
		return nil, err
	}
	if err := eventually(ctx, "the end of /bin/true", func() (bool, error) { return !n.DaemonRunning(), nil }); err != nil {
		return nil, err
	}
	return n, n.SetDaemon(lab.NodeOptions{Args: args})
}

// established waits until a node's daemon has so many sessions, all of them up.
func established(ctx context.Context, n *lab.Node, sessions int) error {
	client := api.NewClient(n.RunDir())
	return sessionsAre(ctx, client, fmt.Sprintf("%d sessions of %s", sessions, n.Name), func(all []bgp.SessionState) bool {
		up := 0
		for _, s := range all {
			if s.Established() {
				up++
			}
		}
		return up == sessions && len(all) == sessions
	})
}

func sessionsAre(ctx context.Context, client *api.Client, what string, done func([]bgp.SessionState) bool) error {
	var last []bgp.SessionState
	err := eventually(ctx, what, func() (bool, error) {
		all, err := client.Sessions(ctx)
		if err != nil {
			return false, nil // it starts
		}
		last = all
		return done(all), nil
	})
	if err != nil {
		return fmt.Errorf("%w: %+v", err, last)
	}
	return nil
}

// patience bounds every wait of the bgp scenarios.
const patience = time.Minute

// eventually asks often whether something is done, and says what it waited for when that does not come.
func eventually(ctx context.Context, what string, done func() (bool, error)) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: nothing within %s", what, patience)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
