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
	name   string // also what the announcing BIRD calls it
	pid    int
	seen   *routeMonitor
	trials []trial
	most   float64 // route messages a prefix, of the trial that had the most
}

// A way is how a learner comes to know the prefixes: what has to be said to the announcing BIRD for it, from when on time counts, and what undoes it.
type way struct {
	name  string
	begin func(announcer *bird, to string) (time.Time, error)
	undo  func(to string) string
}

var ways = []way{
	{"announced in a session that is up", func(announcer *bird, to string) (time.Time, error) {
		start := time.Now()
		_, err := announcer.do("enable to_" + to)
		return start, err
	}, func(to string) string { return "disable to_" + to }},
	{"announced in a new session", func(announcer *bird, to string) (time.Time, error) {
		_, err := announcer.do("enable with_" + to)
		if err != nil {
			return time.Time{}, err
		}
		return announcer.establishedAt("with_" + to)
	}, func(to string) string { return "disable with_" + to }},
}

func runBGPPrefixes(b bench) error {
	return b.withBGPLab(lab.Options{Nodes: 1}, b.manyPrefixes)
}

// manyPrefixes measures to the kernel's last notification: from the command to the announcing BIRD, which has a session with both learners, and from
// a session's coming up, by that BIRD's own clock.
func (b bench) manyPrefixes(ctx context.Context, l *lab.Lab) error {
	n := b.scale(10_000)
	announcer, learners, err := learnFrom(ctx, l, n)
	if err != nil {
		return err
	}
	rows := [][]string{{fmt.Sprintf("%d prefixes from a BIRD", n), "all in the kernel after", "CPU", "memory", "peak", "route messages a prefix"}}
	for _, way := range ways {
		more, err := compareLearners(announcer, learners, way, n)
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		rows = append(append(rows, []string{way.name, "", "", "", "", ""}), more...)
	}
	table(rows...)
	return removedRoutes(l.Nodes()[0], learners[1], n)
}

// compareLearners has the learners take turns. Before and after, they know no prefix; the announcing BIRD has them all for both.
func compareLearners(announcer *bird, learners []*learner, way way, n int) ([][]string, error) {
	for _, l := range learners {
		l.trials, l.most = nil, 0
		if _, err := announcer.do(way.undo(l.name)); err != nil {
			return nil, err
		}
	}
	for range 3 {
		for _, l := range learners {
			if err := l.trial(announcer, way, n); err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
		}
	}
	var rows [][]string
	for _, l := range learners {
		m := middle(l.trials)
		u, err := processUsage(l.pid)
		if err != nil {
			return nil, err
		}
		rows = append(rows, []string{"  " + l.name, ms(m.wall), ms(m.cpu), mib(u.rss), mib(u.peak), fmt.Sprintf("%.3f", l.most)})
		// What the next way undoes is whole.
		if _, err := announcer.do("enable to_" + l.name); err != nil {
			return nil, err
		}
		if _, err := announcer.do("enable with_" + l.name); err != nil {
			return nil, err
		}
		if _, err := l.seen.until("all prefixes", func() bool { return len(l.seen.routes) == n }); err != nil {
			return nil, err
		}
	}
	theirs, ours := middle(learners[0].trials), middle(learners[1].trials)
	return append(rows, []string{"  twilld / BIRD", ratio(ours.wall, theirs.wall), ratio(ours.cpu, theirs.cpu), "", "", ""}), nil
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
	announcer, err := startBIRD(ctx, first, announcerConf(from, map[string]netip.Addr{"BIRD": rival, "twilld": node.Addrs()[0]}, n))
	if err != nil {
		return nil, nil, err
	}
	learns, err := startBIRD(ctx, second, fmt.Sprintf(`router id %[1]s;
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp { local %[1]s as %[2]d; neighbor %[3]s as %[4]d; connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 { import all; export none; }; }
`, rival, nodesAS, from, otherAS))
	if err != nil {
		return nil, nil, err
	}
	if err := node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: announcer, address: %s, as: %d}\n", from, otherAS)); err != nil {
		return nil, nil, err
	}
	learners := []*learner{
		{name: "BIRD", pid: learns.pid()},
		{name: "twilld", pid: node.DaemonPID()},
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

// announcerConf has for each learner a table of its own, with the n routes from a static protocol, which is off, and a session.
func announcerConf(address netip.Addr, learners map[string]netip.Addr, n int) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, "router id %s;\ntimeformat protocol iso long us;\n", address)
	for name, neighbor := range learners {
		fmt.Fprintf(&conf, "ipv4 table for_%[1]s;\nprotocol static to_%[1]s { disabled; ipv4 { table for_%[1]s; };\n", name)
		for i := range n {
			fmt.Fprintf(&conf, " route 20.%d.%d.0/24 blackhole;\n", i>>8, i&255)
		}
		fmt.Fprintf(&conf, `}
protocol bgp with_%[1]s { local %[2]s as %[3]d; neighbor %[4]s as %[5]d; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { table for_%[1]s; import none; export all; next hop self; }; }
`, name, address, otherAS, neighbor, nodesAS)
	}
	return conf.String()
}

// trial has the BIRD announce all prefixes and take them back.
func (l *learner) trial(announcer *bird, way way, n int) error {
	if _, err := l.seen.until("no prefix", func() bool { return len(l.seen.routes) == 0 }); err != nil {
		return err
	}
	messages := l.seen.messages()
	before, err := processorTime(l.pid)
	if err != nil {
		return err
	}
	start, err := way.begin(announcer, l.name)
	if err != nil {
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
	if _, err := announcer.do(way.undo(l.name)); err != nil {
		return err
	}
	_, err = l.seen.until("their end", func() bool { return len(l.seen.routes) == 0 })
	return err
}

// removedRoutes removes 100 of twilld's learned routes behind its back and measures until they are back.
func removedRoutes(node *lab.Node, l *learner, n int) error {
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
