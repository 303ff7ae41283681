package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/ctl/lab"
)

// manyNetwork holds the prefixes that the announcing BIRD has.
var manyNetwork = netip.MustParsePrefix("20.0.0.0/8")

// A learner is a program that learns prefixes from the announcing BIRD and gives them to its kernel.
type learner struct {
	name   string
	static string // the announcing BIRD's static routes for this one
	pid    int
	seen   *routeMonitor
	trials []trial
	most   float64 // route messages a prefix, of the trial that had the most
}

func runBGPPrefixes(b bench) error {
	return b.withBGPLab(lab.Options{Nodes: 1}, b.manyPrefixes)
}

// manyPrefixes measures from the command to the announcing BIRD, which has a session with both learners from the beginning, to the kernel's last
// notification.
func (b bench) manyPrefixes(ctx context.Context, l *lab.Lab) error {
	n := b.scale(10_000)
	announcer, learners, err := learnFrom(ctx, l, n)
	if err != nil {
		return err
	}
	for range 5 { // in turns
		for _, learner := range learners {
			if err := learner.trial(announcer, n); err != nil {
				return fmt.Errorf("%s: %w", learner.name, err)
			}
		}
	}
	rows := [][]string{{fmt.Sprintf("%d prefixes from a BIRD", n), "all in the kernel after", "CPU", "memory", "peak", "route messages a prefix"}}
	for _, l := range learners {
		m := middle(l.trials)
		u, err := processUsage(l.pid)
		if err != nil {
			return err
		}
		rows = append(rows, []string{l.name, ms(m.wall), ms(m.cpu), mib(u.rss), mib(u.peak), fmt.Sprintf("%.3f", l.most)})
	}
	theirs, ours := middle(learners[0].trials), middle(learners[1].trials)
	table(append(rows, []string{"  twilld / BIRD", ratio(ours.wall, theirs.wall), ratio(ours.cpu, theirs.cpu)})...)
	return removedRoutes(l.Nodes()[0], announcer, learners[1], n)
}

// learnFrom starts the announcing BIRD and another one that learns, and returns both learners once all sessions are up.
func learnFrom(ctx context.Context, l *lab.Lab, n int) (*bird, []*learner, error) {
	node := l.Nodes()[0]
	first, from, err := machine(ctx, l, "announcer")
	if err != nil {
		return nil, nil, err
	}
	second, rival, err := machine(ctx, l, "learner")
	if err != nil {
		return nil, nil, err
	}
	announcer, err := startBIRD(ctx, first, announcerConf(from, map[string]netip.Addr{"bird": rival, "twilld": node.Addrs()[0]}, n))
	if err != nil {
		return nil, nil, err
	}
	learns, err := startBIRD(ctx, second, fmt.Sprintf(`router id %[1]s;
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp { local %[1]s as %[2]d; neighbor %[3]s as %[4]d; connect delay time 1; ipv4 { import all; export none; }; }
`, rival, nodesAS, from, otherAS))
	if err != nil {
		return nil, nil, err
	}
	if err := node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: announcer, address: %s, as: %d}\n", from, otherAS)); err != nil {
		return nil, nil, err
	}
	learners := []*learner{
		{name: "BIRD", static: "to_bird", pid: learns.pid()},
		{name: "twilld", static: "to_twilld", pid: node.DaemonPID()},
	}
	if learners[0].seen, err = monitorRoutes(second.Netns(), byBIRD, manyNetwork); err != nil {
		return nil, nil, err
	}
	if learners[1].seen, err = monitorRoutes(node.Netns(), byTwill, manyNetwork); err != nil {
		return nil, nil, err
	}
	if err := established(ctx, node, 1); err != nil {
		return nil, nil, err
	}
	return announcer, learners, announcer.established(ctx, len(learners))
}

// announcerConf has for each learner the n routes in a static protocol of its own, which is off, and a session.
func announcerConf(address netip.Addr, learners map[string]netip.Addr, n int) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, "router id %s;\n", address)
	for name, neighbor := range learners {
		fmt.Fprintf(&conf, "protocol static to_%s { disabled; ipv4;\n", name)
		for i := range n {
			fmt.Fprintf(&conf, " route 20.%d.%d.0/24 blackhole;\n", i>>8, i&255)
		}
		fmt.Fprintf(&conf, "}\nprotocol bgp { local %s as %d; neighbor %s as %d; connect delay time 1; ipv4 { import none; export where proto = \"to_%s\"; next hop self; }; }\n",
			address, otherAS, neighbor, nodesAS, name)
	}
	return conf.String()
}

// trial has the BIRD announce all prefixes and withdraw them again.
func (l *learner) trial(announcer *bird, n int) error {
	if err := l.seen.drain(); err != nil {
		return err
	}
	messages := l.seen.messages()
	before, err := processorTime(l.pid)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := announcer.do("enable " + l.static); err != nil {
		return err
	}
	end, err := l.seen.until("all prefixes", func() bool { return len(l.seen.routes) == n })
	if err != nil {
		return err
	}
	if err := l.seen.drain(); err != nil { // what would be said too much
		return err
	}
	after, err := processorTime(l.pid)
	if err != nil {
		return err
	}
	l.trials = append(l.trials, trial{wall: end.Sub(start), cpu: after - before})
	l.most = max(l.most, float64(l.seen.messages()-messages)/float64(n))
	if _, err := announcer.do("disable " + l.static); err != nil {
		return err
	}
	_, err = l.seen.until("their end", func() bool { return len(l.seen.routes) == 0 })
	return err
}

// removedRoutes removes 100 of twilld's learned routes behind its back and measures until they are back.
func removedRoutes(node *lab.Node, announcer *bird, l *learner, n int) error {
	if _, err := announcer.do("enable " + l.static); err != nil {
		return err
	}
	if _, err := l.seen.until("all prefixes", func() bool { return len(l.seen.routes) == n }); err != nil {
		return err
	}
	const some, turns = 100, 5
	var took samples
	for turn := range turns {
		removed := l.seen.removed
		start := time.Now()
		if err := node.Do(func() error { return removeRoutes(turn*some, some) }); err != nil {
			return err
		}
		end, err := l.seen.until("the routes that were removed", func() bool { return l.seen.removed >= removed+some && len(l.seen.routes) == n })
		if err != nil {
			return err
		}
		took = append(took, end.Sub(start))
	}
	table(
		[]string{fmt.Sprintf("%d of %d routes removed behind its back", some, n), "all back after p50", "max"},
		[]string{"twilld", ms(took.quantile(.5)), ms(took.quantile(1))},
	)
	return nil
}

// removeRoutes removes those to the prefixes from number first on, in the calling thread's namespace.
func removeRoutes(first, count int) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	for i := first; i < first+count; i++ {
		dst := &net.IPNet{IP: net.IPv4(20, byte(i>>8), byte(i), 0), Mask: net.CIDRMask(24, 32)}
		if err := h.RouteDel(&netlink.Route{Dst: dst, Protocol: byTwill, Scope: netlink.SCOPE_NOWHERE}); err != nil {
			return fmt.Errorf("remove the route to %s: %w", dst, err)
		}
	}
	return nil
}
