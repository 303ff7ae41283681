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
	title  string
	pid    int
	seen   prefixes
	trials []trial
	most   float64 // route messages a prefix, of the trial that had the most
}

// prefixes tells which prefixes a learner has: a routeMonitor, which asks the kernel, or alone.
type prefixes interface {
	count() int
	messages() int // to the kernel
	until(what string, done func() bool) (time.Time, error)
	drain() error
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
	announcer, learners, routes, err := learnFrom(ctx, l, n)
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
	return removedRoutes(l.Nodes()[0], routes, n)
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
		rows = append(rows, []string{"  " + l.title, ms(m.wall), ms(m.cpu), mib(u.rss), mib(u.peak), fmt.Sprintf("%.3f", l.most)})
		// What the next way undoes is whole.
		if _, err := announcer.do("enable to_" + l.name); err != nil {
			return nil, err
		}
		if _, err := announcer.do("enable with_" + l.name); err != nil {
			return nil, err
		}
		if _, err := l.seen.until("all prefixes", func() bool { return l.seen.count() == n }); err != nil {
			return nil, err
		}
	}
	first := middle(learners[0].trials)
	for _, l := range learners[1:] {
		m := middle(l.trials)
		rows = append(rows, []string{"  " + l.title + " / " + learners[0].title, ratio(m.wall, first.wall), ratio(m.cpu, first.cpu), "", "", ""})
	}
	return rows, nil
}

// learnFrom starts the announcing BIRD and those that learn from it, and returns these once all sessions are up, with what sees twilld's routes.
func learnFrom(ctx context.Context, l *lab.Lab, n int) (*bird, []*learner, *routeMonitor, error) {
	first, from, err := machine(ctx, l, "announcer")
	if err != nil {
		return nil, nil, nil, err
	}
	node := l.Nodes()[0]
	learners := []*learner{{name: "BIRD", title: "BIRD"}, {name: "twilld", title: "twilld"}, {name: "gobgp", title: "gobgp alone, nothing in the kernel"}}
	theirs, err := learners[0].asBIRD(ctx, l, from)
	if err != nil {
		return nil, nil, nil, err
	}
	ours, err := learners[1].asNode(node, from)
	if err != nil {
		return nil, nil, nil, err
	}
	library, err := learners[2].asLibrary(ctx, l, from, n)
	if err != nil {
		return nil, nil, nil, err
	}
	neighbours := map[string]netip.Addr{learners[0].name: theirs, learners[1].name: node.Addrs()[0], learners[2].name: library}
	announcer, err := startBIRD(ctx, first, announcerConf(from, neighbours, n))
	if err != nil {
		return nil, nil, nil, err
	}
	if err := established(ctx, node, 1); err != nil {
		return nil, nil, nil, err
	}
	return announcer, learners, ours, announcer.established(ctx, len(learners))
}

// asBIRD makes the learner another BIRD, and returns its address.
func (l *learner) asBIRD(ctx context.Context, in *lab.Lab, from netip.Addr) (netip.Addr, error) {
	on, address, err := machine(ctx, in, "learner")
	if err != nil {
		return address, err
	}
	b, err := startBIRD(ctx, on, fmt.Sprintf(`router id %[1]s;
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp { local %[1]s as %[2]d; neighbor %[3]s as %[4]d; connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 { import all; export none; }; }
`, address, nodesAS, from, otherAS))
	if err != nil {
		return address, err
	}
	l.pid = b.pid()
	l.seen, err = monitorRoutes(on.Netns(), byBIRD, manyNetwork)
	return address, err
}

// asNode makes the learner a node of the cluster, and returns what sees its routes.
func (l *learner) asNode(node *lab.Node, from netip.Addr) (*routeMonitor, error) {
	if err := node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: announcer, address: %s, as: %d}\n", from, otherAS)); err != nil {
		return nil, err
	}
	routes, err := monitorRoutes(node.Netns(), byTwill, manyNetwork)
	l.pid, l.seen = node.DaemonPID(), routes
	return routes, err
}

// asLibrary makes the learner the library alone, and returns its address.
func (l *learner) asLibrary(ctx context.Context, in *lab.Lab, from netip.Addr, n int) (netip.Addr, error) {
	on, address, err := machine(ctx, in, "library")
	if err != nil {
		return address, err
	}
	a, err := startAlone(ctx, on, from, n)
	if err != nil {
		return address, err
	}
	l.pid, l.seen = a.cmd.Process.Pid, a
	return address, nil
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
	if _, err := l.seen.until("no prefix", func() bool { return l.seen.count() == 0 }); err != nil {
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
	end, err := l.seen.until("all prefixes", func() bool { return l.seen.count() == n })
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
	_, err = l.seen.until("their end", func() bool { return l.seen.count() == 0 })
	return err
}

// removedRoutes removes 100 of twilld's learned routes behind its back and measures until they are back.
func removedRoutes(node *lab.Node, routes *routeMonitor, n int) error {
	const some, turns = 100, 5
	var took samples
	for turn := range turns {
		removed := routes.removed
		start := time.Now()
		if err := node.Do(func() error { return removeRoutes(turn*some, some) }); err != nil {
			return err
		}
		end, err := routes.until("the routes that were removed", func() bool { return routes.removed >= removed+some && len(routes.routes) == n })
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
