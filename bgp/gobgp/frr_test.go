package gobgp

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// frrConf is the configuration of an FRR in an AS that announces routes to this test. options go into its BGP instance.
func frrConf(as int, options string) string {
	return fmt.Sprintf(`
router bgp %[1]d
 bgp router-id 192.0.2.4
 bgp graceful-restart
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor %[2]s remote-as %[3]d
 neighbor %[2]s timers 3 9
 neighbor %[2]s timers connect 1
 neighbor %[2]s advertisement-interval 0
%[4]s
 address-family ipv4 unicast
  network 10.4.0.0/24
  neighbor %[2]s activate
 address-family ipv6 unicast
  network fd00:4::/64
  neighbor %[2]s activate
  neighbor %[2]s route-map six out
route-map six permit 10
 set ipv6 next-hop global 2001:db8::4
`, as, ourAddr, ourAS, options)
}

func TestFRR(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	options := fmt.Sprintf(" neighbor %[1]s password secret\n neighbor %[1]s bfd 3 300 300\n", ourAddr)
	f := peertest.StartFRR(t, seg.Host("192.0.2.4/24", "2001:db8::4/64"), frrConf(theirAS, options))
	s := start(t, instance(peer("192.0.2.4", func(p *bgp.Peer) {
		p.Password = "secret"
		p.BFD = &bgp.BFD{Transmit: 300 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}
	})))
	all := []string{"10.4.0.0/24 via [192.0.2.4]", "fd00:4::/64 via [2001:db8::4]"}
	up := func() bool {
		return slices.Equal(s.learned(), all) && s.session("192.0.2.4").BFD == "Up" && s.session("192.0.2.4").EndOfRIB
	}
	s.eventually("routes and BFD", 20*time.Second, up)
	peertest.Eventually(t, "FRR has ours", 5*time.Second, func() bool {
		return f.Has("ipv4", "10.1.0.0/24", ourAddr) && f.Has("ipv6", "fd00:1::/64", ourAddr6)
	})

	s.lowest.Store(2)
	f.Kill("bgpd")
	s.eventually("loss of the session", 5*time.Second, func() bool { return s.session("192.0.2.4").Restarted })
	if got := s.learned(); !slices.Equal(got, all) {
		t.Errorf("learned %v after bgpd was killed, want %v", got, all)
	}
	f.Start("bgpd")
	s.eventually("bgpd is back", 30*time.Second, up)
	if n := s.lowest.Load(); n != 2 {
		t.Errorf("%d routes were left at some time, want 2", n)
	}

	began := time.Now()
	f.Signal("bfdd", syscall.SIGSTOP)
	s.eventually("BFD takes the routes away", 3*time.Second, func() bool { return len(s.learned()) == 0 })
	t.Logf("BFD lost, routes gone after %v", time.Since(began))
	f.Signal("bfdd", syscall.SIGCONT)
	s.eventually("routes again", 30*time.Second, up)
}

// This speaker as a route reflector, with BIRD and FRR as clients: each learns the other's prefix with the other's next hop.
func TestReflector(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	f := peertest.StartFRR(t, seg.Host("192.0.2.4/24", "2001:db8::4/64"), frrConf(ourAS, ""))
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"),
		birdConfAS("192.0.2.2", ourAS, "", "10.2.0.0/24", "fd00:2::/64"))
	client := func(p *bgp.Peer) { p.AS, p.Reflector = ourAS, &bgp.Reflector{ClusterID: addr("192.0.2.99")} }
	s := start(t, instance(peer("192.0.2.2", client), peer("192.0.2.4", client)))
	peertest.Eventually(t, "FRR has BIRD's", 15*time.Second, func() bool {
		return f.Has("ipv4", "10.2.0.0/24", "192.0.2.2") && f.Has("ipv6", "fd00:2::/64", "2001:db8::2")
	})
	peertest.Eventually(t, "BIRD has FRR's", 5*time.Second, func() bool {
		return b.Has("10.4.0.0/24", "BGP.next_hop: 192.0.2.4", "BGP.cluster_list: 192.0.2.99", "BGP.originator_id: 192.0.2.4") &&
			b.Has("fd00:4::/64", "2001:db8::4")
	})
	paths(t, s, bgp.PathQuery{Prefix: prefix("10.2.0.0/24")}, func(p bgp.Path) {
		if p.From != addr("192.0.2.2") || !p.Best || p.Rejected != "" || p.LocalPref != 100 || p.Origin != "IGP" {
			t.Errorf("path %+v", p)
		}
	})

	// With itself as the next hop the reflector is a gateway.
	s.set(instance(peer("192.0.2.2", client), peer("192.0.2.4", client, func(p *bgp.Peer) { p.NextHopSelf = true })))
	peertest.Eventually(t, "FRR reaches BIRD's by way of the reflector", 5*time.Second, func() bool {
		return f.Has("ipv4", "10.2.0.0/24", ourAddr) && f.Has("ipv6", "fd00:2::/64", ourAddr6)
	})
	if n := s.session("192.0.2.4").Flaps; n != 0 {
		t.Errorf("the session went down %d times", n)
	}
}
