package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/outage"
	"github.com/twill-cni/twill/daemon/api"
)

// anyNetwork is what two neighbours announce, and each of them answers for all its addresses.
var anyNetwork = netip.MustParsePrefix("10.99.0.0/24")

// flows is how many addresses of it are asked, so that some of the flows take either path.
const flows = 16

// A failing world is a twilld and a BIRD, each with sessions with the same two neighbours that announce the same prefix. Echo requests go
// from a pod of the twilld's node and from the BIRD's machine; then one of the neighbours falls silent while all links stay up.
type failing struct {
	node, bird *lab.Node
	pod        *lab.Pod
	neighbors  []*lab.Node
}

func runBGPFailover(b bench) error {
	return b.withBGPLab(lab.Options{Nodes: 1, PodsPerNode: 1}, b.failover)
}

func (b bench) failover(ctx context.Context, l *lab.Lab) error {
	w := &failing{node: l.Nodes()[0], pod: l.Pods()[0]}
	var err error
	if w.bird, _, err = machine(ctx, l, "bird"); err != nil {
		return err
	}
	for _, name := range []string{"neighbor1", "neighbor2"} {
		n, _, err := machine(ctx, l, name)
		if err != nil {
			return err
		}
		w.neighbors = append(w.neighbors, n)
		if err := answerAll(n); err != nil {
			return err
		}
	}
	rows := [][]string{{"one of two paths dies, its link stays up", "traffic moved after: twilld p50", "max", "BIRD p50", "max"}}
	for _, bfd := range []bool{true, false} {
		name, turns := "BFD 3 x 300 ms", 4
		if !bfd {
			name, turns = "without BFD, hold time 9 s", 1
		}
		took, err := w.measure(ctx, bfd, b.scale(turns))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rows = append(rows, []string{name, ms(took[0].quantile(.5)), ms(took[0].quantile(1)), ms(took[1].quantile(.5)), ms(took[1].quantile(1))})
	}
	table(rows...)
	return nil
}

// answerAll makes a machine answer for all addresses of anyNetwork.
func answerAll(n *lab.Node) error {
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(netip.PrefixFrom(anyNetwork.Addr().Next(), anyNetwork.Bits()).String())
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, addr)
	})
}

// measure starts the BIRDs, lets one neighbour after the other fall silent, and ends them. It returns how long the traffic of twilld's pod and
// of the BIRD was cut.
func (w *failing) measure(ctx context.Context, bfd bool, turns int) (took [2]samples, err error) {
	birds, err := w.start(ctx, bfd)
	for _, b := range birds {
		defer b.kill()
	}
	if err != nil {
		return took, err
	}
	if err := w.whole(ctx, birds, bfd); err != nil {
		return took, err
	}
	paths := w.paths()
	watch, err := outage.Start(paths, outage.Options{Interval: 16 * time.Millisecond, Timeout: time.Second})
	if err != nil {
		return took, err
	}
	defer watch.Close()
	for turn := range turns {
		since := time.Now()
		time.Sleep(300 * time.Millisecond)
		victim := w.neighbors[turn%len(w.neighbors)]
		if err := victim.Isolate(); err != nil {
			return took, err
		}
		if err := w.nextHops(ctx, w.neighbors[(turn+1)%len(w.neighbors)]); err != nil {
			return took, err
		}
		time.Sleep(300 * time.Millisecond)
		list, _, err := watch.Window(ctx, since)
		if err != nil {
			return took, err
		}
		var worst [2]time.Duration
		for i, o := range list {
			worst[i/flows] = max(worst[i/flows], o.Gap)
		}
		for i := range worst {
			took[i] = append(took[i], worst[i])
		}
		if err := victim.Rejoin(); err != nil {
			return took, err
		}
		if err := w.whole(ctx, birds, bfd); err != nil {
			return took, err
		}
	}
	return took, nil
}

// paths are the node's flows, then the BIRD's.
func (w *failing) paths() []outage.Path {
	var paths []outage.Path
	for _, from := range []outage.Path{{From: "pod", Source: w.pod.Netns()}, {From: "bird", Source: w.bird.Netns()}} {
		from.Address = anyNetwork.Addr()
		for range flows {
			from.Address = from.Address.Next()
			paths = append(paths, from)
		}
	}
	return paths
}

// start configures twilld and starts the BIRDs of all machines.
func (w *failing) start(ctx context.Context, bfd bool) ([]*bird, error) {
	on, session, conf := "", "", ""
	if bfd {
		on = "protocol bfd { interface \"*\" { min rx interval 300 ms; min tx interval 300 ms; multiplier 3; }; }\n"
		session = " bfd on;"
		conf = "bfd: {transmit: 300ms, receive: 300ms, multiplier: 3}\n"
	}
	conf += "peers:\n"
	head := "router id %s;\n" + on + "template bgp peer { hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2;" + session + " ipv4 { import all; export %s; }; }\n"
	learn := fmt.Sprintf(head+"protocol kernel { merge paths yes; ipv4 { import none; export all; }; }\n", w.bird.Addrs()[0], "none")
	var birds []*bird
	for _, n := range w.neighbors {
		address := n.Addrs()[0]
		conf += fmt.Sprintf("- {name: %s, address: %s, as: %d}\n", n.Name, address, otherAS)
		learn += fmt.Sprintf("protocol bgp from peer { local as %d; neighbor %s as %d; }\n", nodesAS, address, otherAS)
		announce := fmt.Sprintf(head+"protocol static { ipv4; route %s blackhole; }\n", address, "all", anyNetwork)
		for _, to := range []*lab.Node{w.node, w.bird} {
			announce += fmt.Sprintf("protocol bgp from peer { local as %d; neighbor %s as %d; }\n", otherAS, to.Addrs()[0], nodesAS)
		}
		b, err := startBIRD(ctx, n, announce)
		if err != nil {
			return birds, err
		}
		birds = append(birds, b)
	}
	b, err := startBIRD(ctx, w.bird, learn)
	if err != nil {
		return birds, err
	}
	return append(birds, b), w.node.SetBGPConfig([]byte(conf))
}

// whole waits until twilld and the BIRD have both paths in their kernels, and BFD is up where it is on.
func (w *failing) whole(ctx context.Context, birds []*bird, bfd bool) error {
	want := ""
	if bfd {
		want = "Up"
	}
	client := api.NewClient(w.node.RunDir())
	err := sessionsAre(ctx, client, "twilld's sessions", func(all []bgp.SessionState) bool {
		return len(all) == 2 && !slices.ContainsFunc(all, func(s bgp.SessionState) bool { return !s.Established() || s.BFD != want })
	})
	if err != nil {
		return err
	}
	if bfd {
		learner := birds[len(birds)-1]
		err := eventually(ctx, "BIRD's BFD sessions", func() (bool, error) {
			text, err := learner.do("show bfd sessions")
			return strings.Count(text, " Up ") == 2, err
		})
		if err != nil {
			return err
		}
	}
	return w.nextHops(ctx, w.neighbors...)
}

// nextHops waits until the next hops of both kernels are these.
func (w *failing) nextHops(ctx context.Context, want ...*lab.Node) error {
	return eventually(ctx, fmt.Sprintf("%d next hops", len(want)), func() (bool, error) {
		for _, n := range []*lab.Node{w.node, w.bird} {
			hops, err := nextHopsOf(n, anyNetwork)
			if err != nil {
				return false, err
			}
			if len(hops) != len(want) {
				return false, nil
			}
			for _, neighbor := range want {
				if !slices.Contains(hops, neighbor.Addrs()[0].String()) {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

// nextHopsOf returns the gateways of a machine's route.
func nextHopsOf(n *lab.Node, prefix netip.Prefix) (hops []string, err error) {
	err = n.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.Dst == nil || r.Dst.String() != prefix.String() {
				continue
			}
			if r.Gw != nil {
				hops = append(hops, r.Gw.String())
			}
			for _, h := range r.MultiPath {
				hops = append(hops, h.Gw.String())
			}
		}
		return err
	})
	return hops, err
}
