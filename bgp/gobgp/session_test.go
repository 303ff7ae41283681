package gobgp

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// A session with wrong settings does not come up, says why, and comes up when they are put right.
func TestWrongThenRight(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	for _, c := range []struct {
		name    string
		options string // BIRD's
		wrong   func(*bgp.Peer)
		right   func(*bgp.Peer)
		reason  string // part of the error while it is wrong
		half    bool   // this side may come to think that the session is established
	}{
		{
			name: "password", options: `password "right";`,
			wrong: func(p *bgp.Peer) { p.Password = "wrong-secret" }, right: func(p *bgp.Peer) { p.Password = "right" },
			reason: "timeout",
		},
		{
			name: "no password", options: `password "right";`,
			wrong: func(p *bgp.Peer) {}, right: func(p *bgp.Peer) { p.Password = "right" },
			reason: "timeout",
		},
		{
			name:  "password that goes away",
			wrong: func(p *bgp.Peer) { p.Password = "wrong-secret"; p.Passive = true }, right: func(p *bgp.Peer) { p.Passive = true },
		},
		{
			name:  "AS",
			wrong: func(p *bgp.Peer) { p.AS = 65000 }, right: func(p *bgp.Peer) {},
			reason: "bad peer as",
		},
		{
			name: "TTL security", options: "ttl security on; multihop 1;",
			wrong: func(p *bgp.Peer) { p.MultihopTTL = 64 }, right: func(p *bgp.Peer) { p.TTLSecurity = 1 },
			half: true, // BIRD sets the least TTL of a connection after it has accepted it, and answers an OPEN that was faster
		},
		{
			name:  "local address",
			wrong: func(p *bgp.Peer) { p.LocalAddress = addr("192.0.2.200") }, right: func(p *bgp.Peer) { p.LocalAddress = addr(ourAddr) },
			reason: "cannot assign",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := peertest.StartBIRD(t, host, birdConf("192.0.2.2", c.options, "10.2.0.0/24"))
			s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.Graceful.StaleTime = 4 * time.Second }, c.wrong)))
			if c.reason != "" {
				s.eventually("reason", 10*time.Second, func() bool {
					return strings.Contains(s.session("192.0.2.2").LastError, c.reason)
				})
			}
			s.eventually("settled without it", 25*time.Second, s.Settled)
			if st := s.session("192.0.2.2"); st.State == "Established" && !c.half || len(s.learned()) > 0 || b.Has("10.1.0.0/24") {
				t.Fatalf("established with wrong settings: %+v", st)
			}
			s.set(instance(peer("192.0.2.2", c.right)))
			s.eventually("routes", 20*time.Second, func() bool { return slices.Equal(s.learned(), []string{"10.2.0.0/24 via [192.0.2.2]"}) })
			if strings.Contains(s.log.String(), "secret") {
				t.Error("the password is in the log")
			}
		})
	}
}

func TestRange(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	peertest.StartBIRD(t, seg.Host("192.0.2.66/24", "2001:db8::66/64"), birdConf("192.0.2.66", `password "secret";`, "10.2.0.0/24"))
	in := instance()
	settings := peer("192.0.2.2", func(p *bgp.Peer) { p.Password = "secret"; p.Graceful = nil }).Settings
	in.Ranges = []bgp.Range{{Name: "rack", Prefix: prefix("192.0.2.64/26"), Settings: settings}}
	s := start(t, in)
	s.eventually("routes", 15*time.Second, func() bool { return slices.Equal(s.learned(), []string{"10.2.0.0/24 via [192.0.2.66]"}) })
	st := s.session("192.0.2.66")
	if !st.Dynamic || st.Name != "rack" || !st.Established() {
		t.Errorf("session %+v, want a dynamic one of range rack", st)
	}
	in.Ranges = nil
	s.set(in)
	s.eventually("nothing", 5*time.Second, func() bool { return len(s.learned()) == 0 && len(s.Sessions()) == 0 })
}

func TestMaxPrefixes(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.2.%d.0/24", i))
	}
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", many[:100]...))
	s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.MaxPrefixes = 100 })))
	s.eventually("as many as are allowed", 10*time.Second, func() bool { return len(s.learned()) == 100 })
	b.Configure(birdConf("192.0.2.2", "", many...))
	s.eventually("all gone", 10*time.Second, func() bool { return len(s.learned()) == 0 && s.session("192.0.2.2").State == "Idle" })
	if st := s.session("192.0.2.2"); !strings.Contains(st.LastError, "maximum number of prefixes") {
		t.Errorf("last error %q, want that there were too many prefixes", st.LastError)
	}
}

// A neighbour of a range that announces too much does not come back at once, and it is said why.
func TestMaxPrefixesOfARange(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.2.%d.0/24", i))
	}
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", many...))
	limited := peer("192.0.2.2", func(p *bgp.Peer) { p.MaxPrefixes = 100 })
	in := instance()
	in.Ranges = []bgp.Range{{Name: "rack", Prefix: prefix("192.0.2.0/24"), Settings: limited.Settings}}
	s := start(t, in)
	refused := func() bool {
		st := s.session("192.0.2.2")
		return len(s.learned()) == 0 && st.Flaps == 1 && st.State == "Idle" && st.AS == theirAS && st.Dynamic && st.Name == "rack" && strings.Contains(st.LastError, "maximum number of prefixes")
	}
	s.eventually("the session has ended", 10*time.Second, refused)
	s.eventually("BIRD tries again, in vain", 10*time.Second, func() bool {
		return strings.Contains(b.Ctl("show", "protocols", "all", "twill"), "Socket: ")
	})
	s.set(in)
	if !refused() {
		t.Errorf("sessions %+v", s.Sessions())
	}

	first := s.session("192.0.2.2").Since
	s.apply.Lock()
	_, err := s.engine.release(context.Background(), time.Now().Add(2*penalty))
	s.apply.Unlock()
	if err != nil || len(s.Sessions()) > 0 {
		t.Errorf("after a while: sessions %+v, %v", s.Sessions(), err)
	}
	s.eventually("another session has ended", 15*time.Second, func() bool { return refused() && s.session("192.0.2.2").Since.After(first) })

	// As a peer of its own it has a session at once.
	in = instance(peer("192.0.2.2"))
	s.set(in)
	s.eventually("all routes", 20*time.Second, func() bool { return len(s.learned()) == 200 })
}

// What cannot be applied is told, by peer; the rest is applied.
func TestSetErrors(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.2.0.0/24"))
	s := start(t, instance())
	bad := []bgp.Peer{
		peer("192.0.2.2"),
		peer("192.0.2.3", func(p *bgp.Peer) { p.AS = 0 }),
		peer("192.0.2.4", func(p *bgp.Peer) { p.MultihopTTL, p.TTLSecurity = 2, 1 }),
		peer("192.0.2.5", func(p *bgp.Peer) { p.Password = strings.Repeat("secret", 20) }),
		peer("192.0.2.6", func(p *bgp.Peer) { p.Timers.Hold = time.Second }),
		peer("192.0.2.2"),
	}
	err := s.Set(context.Background(), instance(bad...))
	for _, part := range []string{"192.0.2.3: the AS", "192.0.2.4: multihop and TTL", "192.0.2.5: the password", "192.0.2.6: a hold time", "192.0.2.2: it is there twice"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want %q in it", err, part)
		}
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Error("the password is in the error")
	}
	s.eventually("routes of the good one", 10*time.Second, func() bool { return len(s.learned()) == 1 })
	if got := len(s.Sessions()); got != 5 {
		t.Errorf("%d sessions, want 5", got)
	}
}
