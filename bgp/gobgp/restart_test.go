package gobgp

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

func TestECMP(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.9.0.0/24", "fd00:9::/64"))
	peertest.StartBIRD(t, seg.Host("192.0.2.3/24", "2001:db8::3/64"), birdConf("192.0.2.3", "", "10.9.0.0/24", "fd00:9::/64", "10.3.0.0/24"))
	s := start(t, instance(peer("192.0.2.2"), peer("192.0.2.3")))
	s.eventually("both next hops", 10*time.Second, func() bool {
		return slices.Equal(s.learned(), []string{"10.3.0.0/24 via [192.0.2.3]", "10.9.0.0/24 via [192.0.2.2 192.0.2.3]", "fd00:9::/64 via [2001:db8::2 2001:db8::3]"})
	})
	before := s.Learned()
	b.Configure(birdConf("192.0.2.2", ""))
	s.eventually("the other next hop", 5*time.Second, func() bool {
		return slices.Equal(s.learned(), []string{"10.3.0.0/24 via [192.0.2.3]", "10.9.0.0/24 via [192.0.2.3]", "fd00:9::/64 via [2001:db8::3]"})
	})
	for _, r := range s.Learned() {
		if r.Prefix == prefix("10.3.0.0/24") && !slices.Contains(before, r) {
			t.Errorf("the route to %v did not change, but is another pointer", r.Prefix)
		}
	}
	b.Configure(birdConf("192.0.2.2", "", "10.9.0.0/24"))
	s.eventually("both next hops again", 5*time.Second, func() bool {
		return slices.Contains(s.learned(), "10.9.0.0/24 via [192.0.2.2 192.0.2.3]")
	})
}

// A restarted speaker finds that BIRD kept its routes, all the time; and it settles.
func TestOwnRestart(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.2.0.0/24"))
	in := instance(peer("192.0.2.2"), peer("192.0.2.9"))
	s := start(t, in)
	ours := func() bool {
		return b.Has("10.1.0.0/24", "via 192.0.2.1") && b.Has("fd00:1::/64", "via 2001:db8::1")
	}
	peertest.Eventually(t, "BIRD has ours", 10*time.Second, ours)
	s.eventually("session", 5*time.Second, func() bool { return s.session("192.0.2.2").EndOfRIB })
	s.stop()

	lost := make(chan string, 1)
	watching, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			if !ours() {
				lost <- b.Ctl("show", "route", "all") + b.Ctl("show", "protocols", "all", "twill")
				return
			}
			select {
			case <-watching:
				return
			default:
			}
		}
	}()
	in.Restarting = true
	again := start(t, in)
	again.eventually("BIRD's route", 20*time.Second, func() bool {
		return slices.Equal(again.learned(), []string{"10.2.0.0/24 via [192.0.2.2]"}) && again.session("192.0.2.2").EndOfRIB
	})
	peertest.Eventually(t, "BIRD heard the End-of-RIB of the restarted speaker", 15*time.Second, func() bool {
		return !strings.Contains(b.Ctl("show", "route", "all"), "stale")
	})
	again.eventually("settled, though a peer is dead", 25*time.Second, again.Settled)
	close(watching)
	<-watched
	select {
	case what := <-lost:
		t.Errorf("BIRD lost a route of the restarting speaker:\n%s", what)
	default:
	}
}

// A speaker that stops tells none of its neighbours that what it learned from another one is gone.
func TestStopWithdrawsNothingOfOthers(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	client := func(p *bgp.Peer) { p.AS, p.Reflector = ourAS, &bgp.Reflector{ClusterID: addr("192.0.2.99")} }
	var birds []*peertest.BIRD
	var peers []bgp.Peer
	for i := range 6 {
		address := fmt.Sprintf("192.0.2.%d", 2+i)
		birds = append(birds, peertest.StartBIRD(t, seg.Host(address+"/24", fmt.Sprintf("2001:db8::%d/64", 2+i)),
			birdConfAS(address, ourAS, "", fmt.Sprintf("10.%d.0.0/24", 2+i))))
		peers = append(peers, peer(address, client))
	}
	s := start(t, instance(peers...))
	others := func(i int) bool {
		for j := range birds {
			if j != i && !birds[i].Has(fmt.Sprintf("10.%d.0.0/24", 2+j)) {
				return false
			}
		}
		return true
	}
	for i := range birds {
		peertest.Eventually(t, "each client has the routes of all others", 15*time.Second, func() bool { return others(i) })
	}
	s.stop()
	for i := range birds {
		if !others(i) {
			t.Errorf("BIRD %d dropped a route when the reflector stopped:\n%s", i, birds[i].Ctl("show", "route"))
		}
	}
}

// FRR keeps the routes of a speaker that restarts, and does not update what it knows of them in any way that a packet could feel.
func TestOwnRestartFRR(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	f := peertest.StartFRR(t, seg.Host("192.0.2.4/24", "2001:db8::4/64"), frrConf(theirAS, ""))
	in := instance(peer("192.0.2.4"))
	s := start(t, in)
	kernel := func() string { return f.Routes() }
	peertest.Eventually(t, "FRR's kernel has ours", 15*time.Second, func() bool {
		return strings.Contains(kernel(), "10.1.0.0/24") && strings.Contains(kernel(), "fd00:1::/64")
	})
	monitor := f.Monitor()
	for range 2 {
		s.eventually("session", 20*time.Second, func() bool { return s.session("192.0.2.4").EndOfRIB })
		s.stop()
		peertest.Eventually(t, "FRR has stale routes", 5*time.Second, func() bool {
			p := f.Paths("ipv4", "10.1.0.0/24")
			return len(p) == 1 && p[0].Stale
		})
		in.Restarting = true
		s = start(t, in)
		peertest.Eventually(t, "FRR's routes are fresh", 20*time.Second, func() bool {
			for _, p := range slices.Concat(f.Paths("ipv4", "10.1.0.0/24"), f.Paths("ipv6", "fd00:1::/64")) {
				if p.Stale {
					return false
				}
			}
			return s.session("192.0.2.4").Established()
		})
		s.eventually("FRR's own", 5*time.Second, func() bool { return len(s.learned()) == 2 && s.Settled() })
	}
	if out := monitor.Output(); strings.Contains(out, "Deleted") {
		t.Errorf("FRR removed routes from its kernel:\n%s", out)
	}
}

// A change of what the whole speaker is ends all sessions and starts them anew.
func TestChangeOfAS(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.2.0.0/24"))
	s := start(t, instance(peer("192.0.2.2")))
	s.eventually("route", 10*time.Second, func() bool { return len(s.learned()) == 1 })
	in := instance(peer("192.0.2.2"))
	in.AS = 65010
	s.set(in)
	if got := s.learned(); len(got) != 0 {
		t.Errorf("learned %v, want nothing", got)
	}
	b.Configure(strings.Replace(birdConf("192.0.2.2", "", "10.2.0.0/24"), fmt.Sprint("as ", ourAS), "as 65010", 1))
	s.eventually("route again", 20*time.Second, func() bool { return len(s.learned()) == 1 })

	in.Peers = nil
	s.set(in)
	s.eventually("nothing", 5*time.Second, func() bool { return len(s.learned()) == 0 && len(s.Sessions()) == 0 })
	s.eventually("settled", 5*time.Second, s.Settled)
}

func TestStopWithoutGracefulRestart(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", ""))
	s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.Graceful = nil })))
	peertest.Eventually(t, "BIRD has ours", 10*time.Second, func() bool { return b.Has("10.1.0.0/24") })
	s.stop()
	peertest.Eventually(t, "BIRD drops ours", 2*time.Second, func() bool { return !b.Has("10.1.0.0/24") })
}

// A neighbour that is killed restarts, as far as anybody can tell; one that falls silent is dead.
func TestNeighbourEnds(t *testing.T) {
	bfd := func(p *bgp.Peer) {
		p.BFD = &bgp.BFD{Transmit: 300 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}
	}
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	routes := []string{"10.2.0.0/24", "fd00:2::/64"}
	want := []string{"10.2.0.0/24 via [192.0.2.2]", "fd00:2::/64 via [2001:db8::2]"}
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	for _, withBFD := range []bool{false, true} {
		p, options, limit := peer("192.0.2.2"), "", 12*time.Second
		if withBFD {
			p, limit = peer("192.0.2.2", bfd), 2*time.Second
			options = "bfd graceful;"
		}
		t.Run(fmt.Sprintf("bfd=%v", withBFD), func(t *testing.T) {
			conf := birdConf("192.0.2.2", options, routes...)
			if withBFD {
				conf += "protocol bfd { interface \"eth0\" { interval 300 ms; multiplier 3; }; }\n"
			}
			b := peertest.StartBIRD(t, host, conf)
			s := start(t, instance(p))
			up := func() bool {
				st := s.session("192.0.2.2")
				return slices.Equal(s.learned(), want) && st.EndOfRIB && (!withBFD || st.BFD == "Up")
			}
			s.eventually("routes", 15*time.Second, up)

			s.lowest.Store(2)
			b.Kill()
			s.eventually("loss of the session", 5*time.Second, func() bool { return s.session("192.0.2.2").Restarted })
			if !slices.Equal(s.learned(), want) {
				t.Fatalf("learned %v after the neighbour was killed, want %v", s.learned(), want)
			}
			b.Start()
			s.eventually("the neighbour is back", 30*time.Second, up)
			if st := s.session("192.0.2.2"); st.Flaps != 1 || s.lowest.Load() != 2 {
				t.Errorf("%d flaps, want 1; %d routes were left at some time, want 2", st.Flaps, s.lowest.Load())
			}

			began := time.Now()
			b.Signal(syscall.SIGSTOP)
			s.eventually("routes of a silent neighbour go", limit, func() bool { return len(s.learned()) == 0 })
			t.Logf("routes of a silent neighbour gone after %v", time.Since(began))
			b.Signal(syscall.SIGCONT)
			s.eventually("the neighbour speaks again", 30*time.Second, up)
			if n := strings.Count(s.log.String(), "BGP session down"); n != 2 {
				t.Errorf("%d messages about lost sessions, want 2", n)
			}
		})
	}
}
