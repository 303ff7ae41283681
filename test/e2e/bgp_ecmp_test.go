package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// fast is BFD with a detection time of 900 ms, in the words of Twill and of BIRD.
const (
	fast     = ", bfd: {transmit: 300ms, receive: 300ms, multiplier: 3}"
	fastBIRD = "protocol bfd { interface \"eth0\" { min rx interval 300 ms; min tx interval 300 ms; multiplier 3; }; }\n"
)

// What is behind two routers is reached through both. When one of them falls silent while its link stays up, BFD moves its share of the traffic
// to the other in less than a second.
func TestBGPEqualPathsWithBFD(t *testing.T) {
	if gap, stall := equalPaths(t, true); gap > time.Second+stall {
		t.Errorf("traffic stopped for %v, want 1s at most; on the other path, for %v", gap, stall)
	}
}

// Without BFD that takes until the hold time is over.
func TestBGPEqualPathsWithoutBFD(t *testing.T) {
	t.Parallel()
	if gap, stall := equalPaths(t, false); gap > 10*time.Second+stall {
		t.Errorf("traffic stopped for %v, the hold time is 9s", gap)
	}
}

// equalPaths returns for how long traffic stopped that took the path which was cut, and for how long that on the other path did, which is the
// machine's doing.
func equalPaths(t *testing.T, bfd bool) (gap, stall time.Duration) {
	t.Helper()
	const flows = 16 // the kernel spreads them over the paths by their addresses
	l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	config, routers := "peers:\n", []*lab.Node{}
	for i, name := range []string{"tor1", "tor2"} {
		tor := outsider(t, l, name)
		routers = append(routers, tor)
		sh(t, tor.Netns(), fmt.Sprintf("for i in $(seq 2 %d); do ip addr add 203.0.113.$i/32 dev lo; done", flows))
		r := router{as: rackAS + i, nodes: []*lab.Node{node}, announces: true}
		ours := ""
		if bfd {
			ours, r.global, r.options = fast, fastBIRD, "bfd on;"
		}
		r.bird(t, tor)
		config += fmt.Sprintf("- {name: %s, address: %s, as: %d%s}\n", name, address(t, tor, false), r.as, ours)
	}
	must(t, node.SetBGPConfig([]byte(config)))
	within(t, 2*enough, func() error {
		for _, family := range []string{"ip -4 route show " + behind4, "ip -6 route show " + behind6} {
			if have := sh(t, node.Netns(), family); strings.Count(have, "nexthop via") != len(routers) {
				return fmt.Errorf("%s prints %q, want %d next hops", family, have, len(routers))
			}
		}
		for _, s := range sessions(t, node) {
			if bfd && s.BFD != "Up" {
				return fmt.Errorf("BFD with %s is %s", s.Name, s.BFD)
			}
		}
		return nil
	})

	var streams []*load
	for i := range flows {
		to := netip.MustParseAddr(behindAddr4).As4()
		to[3] += byte(i)
		within(t, enough, func() error { return echo(t.Context(), l.Pods()[0].Netns(), netip.AddrFrom4(to), 0) })
		streams = append(streams, startLoad(t, l.Pods()[0], netip.AddrFrom4(to), 20*time.Millisecond))
	}
	must(t, routers[0].Isolate())
	within(t, enough, func() error {
		if have := sh(t, node.Netns(), "ip route show "+behind4); strings.Contains(have, address(t, routers[0], false).String()) {
			return fmt.Errorf("the route is %q", have)
		}
		return nil
	})
	for _, s := range streams {
		s.stop()
	}
	spared := 0
	for _, s := range streams {
		got := s.end(t)
		if got.Lost() > 0 {
			gap = max(gap, got.Gap)
			continue
		}
		stall = max(stall, got.Gap)
		spared++
	}
	if spared == 0 || spared == flows {
		t.Errorf("%d of %d flows lost nothing: they did not take both paths", spared, flows)
	}
	t.Logf("traffic on the path that was cut stopped for %v", gap.Round(time.Millisecond))
	return gap, stall
}
