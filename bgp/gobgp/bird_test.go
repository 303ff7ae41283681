package gobgp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// birdConf is the configuration of a BIRD that announces routes to this test, given as in "10.2.0.0/24" or "fd00:2::/64". options go into its
// session.
func birdConf(address string, options string, routes ...string) string {
	return birdConfAS(address, theirAS, options, routes...)
}

func birdConfAS(address string, as int, options string, routes ...string) string {
	var v4, v6 strings.Builder
	for _, r := range routes {
		to := &v4
		if strings.Contains(r, ":") {
			to = &v6
		}
		fmt.Fprintf(to, "  route %s blackhole;\n", r)
	}
	last := address[strings.LastIndex(address, ".")+1:]
	return fmt.Sprintf(`
log stderr all;
router id %[1]s;
protocol device { }
protocol static { ipv4; %[2]s }
protocol static { ipv6; %[3]s }
protocol bgp twill {
  local %[1]s as %[4]d;
  neighbor %[5]s as %[6]d;
  graceful restart on;
  hold time 9;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 { import all; export all; next hop self; };
  ipv6 { import all; export all; next hop address 2001:db8::%[7]s; };
  %[8]s
}
`, address, v4.String(), v6.String(), as, ourAddr, ourAS, last, options)
}

func TestExchange(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.2.0.0/24", "fd00:2::/64"))
	s := start(t, instance(peer("192.0.2.2"), peer("192.0.2.9"))) // the latter is dead, and nobody waits for it

	s.eventually("routes of both families", 10*time.Second, func() bool {
		return slices.Equal(s.learned(), []string{"10.2.0.0/24 via [192.0.2.2]", "fd00:2::/64 via [2001:db8::2]"})
	})
	peertest.Eventually(t, "BIRD has ours", 10*time.Second, func() bool {
		return b.Has("10.1.0.0/24", "via 192.0.2.1") && b.Has("fd00:1::/64", "via 2001:db8::1")
	})
	up := s.session("192.0.2.2")
	got := map[string]any{"state": up.State, "as": up.AS, "id": up.RouterID.String(), "received": up.Received, "accepted": up.Accepted, "announced": up.Announced, "eor": up.EndOfRIB}
	want := map[string]any{"state": "Established", "as": uint32(theirAS), "id": "192.0.2.2", "received": 2, "accepted": 2, "announced": 2, "eor": true}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("session (-want +got):\n%s", d)
	}

	b.Configure(birdConf("192.0.2.2", "", "fd00:2::/64"))
	s.eventually("withdrawal", 5*time.Second, func() bool {
		return slices.Equal(s.learned(), []string{"fd00:2::/64 via [2001:db8::2]"})
	})
	in := instance(peer("192.0.2.2"), peer("192.0.2.9"))
	in.Announcements = in.Announcements[1:]
	s.set(in)
	peertest.Eventually(t, "BIRD loses one of ours", 5*time.Second, func() bool { return !b.Has("10.1.0.0/24") && b.Has("fd00:1::/64") })
	if got := s.session("192.0.2.2").Flaps; got != 0 {
		t.Errorf("the session went down %d times", got)
	}
	if n := strings.Count(s.log.String(), "BGP session up"); n != 1 {
		t.Errorf("%d messages about a session that came up, want 1", n)
	}
}
