package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/ping"
)

// podNetwork is that of every lab.
var podNetwork = netip.MustParsePrefix("10.244.0.0/16")

// A restarting world is two nodes with a pod each, and an FRR outside of the cluster that both nodes tell of their pods. The first
// node's daemon ends and starts again while echo requests go from its pod to the other.
type restarting struct {
	node, other *lab.Node
	pods        []*lab.Pod
	frr         *frr
	frrAddr     netip.Addr
	seen        *routeMonitor // what FRR does to its kernel
}

func runBGPRestart(b bench) error {
	return b.withBGPLab(lab.Options{Nodes: 2, PodsPerNode: 1}, b.restarts)
}

func (b bench) restarts(ctx context.Context, l *lab.Lab) error {
	w := &restarting{node: l.Nodes()[0], other: l.Nodes()[1], pods: l.Pods()}
	if err := w.addFRR(ctx, l); err != nil {
		return err
	}
	defer w.seen.close()
	newer := filepath.Join(l.Dir(), "newer") // with the plugins, which the daemon installs
	if err := os.CopyFS(newer, os.DirFS(b.bin)); err != nil {
		return err
	}
	rows := [][]string{{"twilld on one of two nodes", "packets sent", "lost", "longest gap", "withdrawals at FRR", "routes that left FRR's kernel", "sessions again after"}}
	for _, graceful := range []bool{true, false} {
		if err := w.configure(ctx, graceful); err != nil {
			return err
		}
		for _, s := range []struct {
			name    string
			end     func(context.Context) error
			program string
		}{
			{"SIGTERM", w.node.StopDaemon, ""},
			{"SIGKILL", w.node.KillDaemon, ""},
			{"upgrade", w.node.StopDaemon, filepath.Join(newer, "twilld")},
		} {
			name := s.name
			if !graceful {
				if s.program != "" {
					continue // to lose packets, a SIGTERM will do
				}
				name += ", without graceful restart"
			}
			row, err := w.restart(ctx, s.end, s.program)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			rows = append(rows, append([]string{name}, row...))
		}
	}
	table(rows...)
	return nil
}

func (w *restarting) addFRR(ctx context.Context, l *lab.Lab) error {
	on, address, err := machine(ctx, l, "frr")
	if err != nil {
		return err
	}
	w.frrAddr = address
	if w.seen, err = monitorRoutes(on.Netns(), byFRR, podNetwork); err != nil {
		return err
	}
	conf := fmt.Sprintf(`debug bgp updates in
router bgp %d
 bgp router-id %s
 bgp graceful-restart
 no bgp ebgp-requires-policy
`, otherAS, address)
	for _, n := range []*lab.Node{w.node, w.other} {
		conf += fmt.Sprintf(" neighbor %[1]s remote-as %[2]d\n neighbor %[1]s timers 3 9\n neighbor %[1]s timers connect 1\n", n.Addrs()[0], nodesAS)
	}
	w.frr, err = startFRR(ctx, on, conf)
	return err
}

// configure turns graceful restart on or off on both nodes and waits until all is well.
func (w *restarting) configure(ctx context.Context, graceful bool) error {
	conf := fmt.Sprintf("gracefulRestart: {enabled: %t}\npeers:\n- {name: frr, address: %s, as: %d}\n", graceful, w.frrAddr, otherAS)
	for _, n := range []*lab.Node{w.node, w.other} {
		if err := n.StopDaemon(ctx); err != nil {
			return err
		}
		if err := n.SetBGPConfig([]byte(conf)); err != nil {
			return err
		}
	}
	for _, n := range []*lab.Node{w.node, w.other} {
		if err := n.StartDaemon(); err != nil {
			return err
		}
	}
	return w.well(ctx)
}

// well waits until all sessions are up and FRR's kernel has both nodes' pods.
func (w *restarting) well(ctx context.Context) error {
	for _, n := range []*lab.Node{w.node, w.other} {
		if err := established(ctx, n, 2); err != nil {
			return err
		}
	}
	_, err := w.seen.until("FRR's routes", func() bool { return len(w.seen.routes) == 2 })
	return err
}

// restart ends the daemon, starts the program in its place and returns what that has cost.
func (w *restarting) restart(ctx context.Context, end func(context.Context) error, program string) ([]string, error) {
	if err := w.seen.drain(); err != nil {
		return nil, err
	}
	withdrawn, removed := w.frr.withdrawn(), w.seen.removed
	var again time.Duration
	stats, err := stream(ctx, w.pods[0], w.pods[1].Addrs()[0], func() error {
		if err := end(ctx); err != nil {
			return err
		}
		if err := w.node.SetDaemon(lab.NodeOptions{Program: program}); err != nil {
			return err
		}
		began := time.Now()
		if err := w.node.StartDaemon(); err != nil {
			return err
		}
		if err := w.node.Ready(ctx); err != nil {
			return err
		}
		err := w.well(ctx)
		again = time.Since(began)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.seen.drain(); err != nil {
		return nil, err
	}
	return []string{fmt.Sprint(stats.Sent), fmt.Sprint(stats.Lost()), ms(stats.Gap), fmt.Sprint(w.frr.withdrawn() - withdrawn),
		fmt.Sprint(w.seen.removed - removed), ms(again)}, nil
}

// stream sends 1,000 echo requests a second from half a second before what happens until a second after it.
func stream(ctx context.Context, from *lab.Pod, to netip.Addr, happens func() error) (ping.Stats, error) {
	var conn *ping.Conn
	err := from.Do(func() (err error) {
		conn, err = ping.Listen(to)
		return err
	})
	if err != nil {
		return ping.Stats{}, err
	}
	defer conn.Close()
	sending, stop := context.WithCancel(ctx)
	defer stop()
	stats := make(chan ping.Stats, 1)
	go func() {
		stats <- conn.Stream(sending, to, ping.Options{Interval: time.Millisecond, Timeout: 2 * time.Second})
	}()
	time.Sleep(500 * time.Millisecond)
	err = happens()
	time.Sleep(time.Second)
	stop()
	return <-stats, err
}
