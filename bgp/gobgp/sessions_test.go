package gobgp

import (
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

var (
	bothFamilies = []packet.ParameterCapabilityInterface{packet.NewCapMultiProtocol(packet.RF_IPv4_UC), packet.NewCapMultiProtocol(packet.RF_IPv6_UC)}
	onlyIPv4     = bothFamilies[:1]
	graceful     = packet.NewCapGracefulRestart(false, false, 60, nil)
)

// clocked is a sessions whose clock the test moves.
type clocked struct {
	*sessions
	at time.Time
}

func newClocked() *clocked {
	c := &clocked{at: time.Unix(1_000_000, 0)}
	c.sessions = newSessions(slog.New(slog.NewTextHandler(io.Discard, nil)), func() time.Time { return c.at })
	return c
}

func (c *clocked) up(address string, remote ...packet.ParameterCapabilityInterface) {
	c.event(&apiutil.Peer{State: apiutil.PeerState{
		NeighborAddress: addr(address), SessionState: packet.BGP_FSM_ESTABLISHED, RemoteCap: remote, LocalCap: bothFamilies,
	}}, c.at)
}

func (c *clocked) downBecause(address string, reason api.PeerState_DisconnectReason) {
	c.event(&apiutil.Peer{State: apiutil.PeerState{
		NeighborAddress: addr(address), SessionState: packet.BGP_FSM_IDLE, DisconnectReason: reason,
	}}, c.at)
}

func TestSettled(t *testing.T) {
	const a, b = "192.0.2.2", "192.0.2.3"
	withGR := append([]packet.ParameterCapabilityInterface{graceful}, bothFamilies...)
	for _, c := range []struct {
		name string
		do   func(*clocked)
		want time.Duration // after the last Set; -1: it was settled before the clock moved
	}{
		{"no peers", func(c *clocked) { c.begin() }, -1},
		{"dead peer", func(c *clocked) { c.expect(addr(a), "a", 20*time.Second); c.begin() }, 20 * time.Second},
		{"End-of-RIB of both families", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.begin()
			c.up(a, withGR...)
			c.endOfRIB(addr(a), packet.RF_IPv6_UC)
			c.endOfRIB(addr(a), packet.RF_IPv4_UC)
		}, -1},
		{"End-of-RIB of one of two families", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.begin()
			c.up(a, withGR...)
			c.endOfRIB(addr(a), packet.RF_IPv4_UC)
		}, 20 * time.Second},
		{"End-of-RIB of the only family", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.begin()
			c.up(a, append([]packet.ParameterCapabilityInterface{graceful}, onlyIPv4...)...)
			c.endOfRIB(addr(a), packet.RF_IPv4_UC)
		}, -1},
		{"no End-of-RIB to come", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.begin()
			c.up(a, bothFamilies...)
		}, quiet},
		{"up late, and then slow", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.begin()
			c.at = c.at.Add(15 * time.Second)
			c.up(a, withGR...)
		}, 35 * time.Second},
		{"one peer complete, the other dead", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.expect(addr(b), "b", 5*time.Second)
			c.begin()
			c.up(a, bothFamilies...)
			c.endOfRIB(addr(a), packet.RF_IPv4_UC)
			c.endOfRIB(addr(a), packet.RF_IPv6_UC)
		}, 5 * time.Second},
		{"a range", func(c *clocked) { c.expectRange("g", "rack", 7*time.Second); c.begin() }, 7 * time.Second},
		{"a peer that is no longer wanted", func(c *clocked) {
			c.expect(addr(a), "a", 20*time.Second)
			c.forget(addr(a))
			c.begin()
		}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newClocked()
			if ok, _ := s.settled(); ok {
				t.Fatal("settled before anything was set")
			}
			start := s.at
			c.do(s)
			ok, next := s.settled()
			if c.want < 0 {
				if !ok {
					t.Fatal("not settled")
				}
				return
			}
			// It has to ask for a time that is not too late, and to settle then, not before.
			for !ok {
				if next.After(start.Add(c.want)) {
					t.Fatalf("wants to be asked after %v, which is too late", next.Sub(start))
				}
				s.at = next.Add(-time.Nanosecond)
				if early, _ := s.settled(); early {
					t.Fatalf("settled after %v", s.at.Sub(start))
				}
				s.at = next
				ok, next = s.settled()
			}
			if got := s.at.Sub(start); got != c.want {
				t.Errorf("settled after %v, want %v", got, c.want)
			}
		})
	}
}

func TestChores(t *testing.T) {
	const a = "192.0.2.2"
	graceReason, read := api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART, api.PeerState_DISCONNECT_REASON_READ_FAILED
	second := func(c *clocked) { c.at = c.at.Add(time.Second) }
	for _, c := range []struct {
		name string
		do   func(*clocked)
		want []chore
		kept bool
	}{
		{"restart", func(c *clocked) { c.downBecause(a, graceReason) }, nil, true},
		{"hold timer", func(c *clocked) {
			c.diagnose(addr(a), diagnosis{text: "hold timer expired", notification: true, code: packet.BGP_ERROR_HOLD_TIMER_EXPIRED})
			c.downBecause(a, graceReason)
		}, []chore{{addr(a), evict}}, false},
		{"a NOTIFICATION of an earlier session", func(c *clocked) {
			c.diagnose(addr(a), diagnosis{notification: true, code: packet.BGP_ERROR_HOLD_TIMER_EXPIRED})
			second(c)
			c.up(a)
			second(c)
			c.downBecause(a, graceReason)
		}, []chore{{addr(a), retell}}, true},
		{"too many prefixes", func(c *clocked) {
			c.diagnose(addr(a), diagnosis{notification: true, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED})
			c.downBecause(a, read)
		}, []chore{{addr(a), hold}}, false},
		{"no graceful restart", func(c *clocked) { c.downBecause(a, read) }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newClocked()
			s.expect(addr(a), "a", time.Second)
			s.up(a)
			sameChore := cmp.Comparer(func(x, y chore) bool { return x == y })
			if got, _ := s.take(); !cmp.Equal(got, []chore{{addr(a), retell}}, sameChore) {
				t.Errorf("chores of a session that is up: %v, want it told everything again", got)
			}
			second(s)
			c.do(s)
			got, news := s.take()
			if d := cmp.Diff(c.want, got, sameChore); d != "" || !news {
				t.Errorf("news %v, chores (-want +got):\n%s", news, d)
			}
			if p := s.peers[addr(a)]; p.restarting != c.kept || p.up {
				t.Errorf("session %+v, want routes kept %v", p, c.kept)
			}
		})
	}
}

// Why a session does not come up is told as well as it can be known: some settings make the kernel drop what the neighbour says.
func TestWhyNoSession(t *testing.T) {
	const a = "192.0.2.2"
	const silent = "connected, but the neighbour does not answer"
	hint := hintOf(bgp.Settings{Password: "x", TTLSecurity: 1})
	state := func(c *clocked, state packet.FSMState) {
		c.event(&apiutil.Peer{State: apiutil.PeerState{NeighborAddress: addr(a), SessionState: state}}, c.at)
	}
	pass := func(c *clocked, d time.Duration) { c.at = c.at.Add(d) }
	for _, tt := range []struct {
		name string
		do   func(*clocked)
		want string
	}{
		{"nothing is known", func(*clocked) {}, ""},
		{"refused", func(c *clocked) { c.diagnose(addr(a), diagnosis{text: "refused"}) }, "refused"},
		{"no answer to a SYN", func(c *clocked) { c.diagnose(addr(a), diagnosis{text: "timeout", timeout: true}) }, "timeout" + hint},
		{"connected a moment ago", func(c *clocked) { c.diagnose(addr(a), diagnosis{connected: true}); pass(c, answer) }, ""},
		{"no answer to an OPEN", func(c *clocked) { c.diagnose(addr(a), diagnosis{connected: true}); pass(c, 2*answer) }, silent + hint},
		{"no answer to an OPEN, again", func(c *clocked) {
			c.diagnose(addr(a), diagnosis{connected: true})
			pass(c, 2*answer)
			c.diagnose(addr(a), diagnosis{connected: true})
		}, silent + hint},
		{"no KEEPALIVE", func(c *clocked) { state(c, packet.BGP_FSM_OPENCONFIRM); pass(c, 2*answer) }, silent + hint},
		{"no KEEPALIVE, and a new start", func(c *clocked) {
			state(c, packet.BGP_FSM_OPENSENT)
			state(c, packet.BGP_FSM_OPENCONFIRM)
			pass(c, 2*answer)
			state(c, packet.BGP_FSM_IDLE)
			pass(c, time.Hour)
		}, silent + hint},
		{"a NOTIFICATION after a while", func(c *clocked) {
			state(c, packet.BGP_FSM_OPENSENT)
			pass(c, 2*answer)
			c.diagnose(addr(a), diagnosis{text: "bad peer as", notification: true})
			state(c, packet.BGP_FSM_IDLE)
		}, "bad peer as"},
		{"up after a while", func(c *clocked) {
			c.diagnose(addr(a), diagnosis{connected: true})
			pass(c, 2*answer)
			state(c, packet.BGP_FSM_OPENCONFIRM)
			c.up(a)
			pass(c, 2*answer)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClocked()
			c.expect(addr(a), "a", time.Minute)
			c.explain(addr(a), hint)
			tt.do(c)
			if got := c.standing()[0].LastError; got != tt.want {
				t.Errorf("last error %q, want %q", got, tt.want)
			}
		})
	}
}

// A neighbour that announces no End-of-RIB has said all when it falls silent. That has to be told, long after everything has settled.
func TestSilenceIsTold(t *testing.T) {
	const a = "192.0.2.2"
	c := newClocked()
	step := func(why string, pass time.Duration, news bool, next time.Duration) {
		t.Helper()
		c.at = c.at.Add(pass)
		gotNews, gotNext := c.silences()
		if gotNews != news || (next == 0) != gotNext.IsZero() || next != 0 && gotNext.Sub(c.at) != next {
			t.Errorf("%s: %v, again in %v; want %v, in %v", why, gotNews, gotNext.Sub(c.at), news, next)
		}
		if told := c.standing(); len(told) == 1 && told[0].Established() && told[0].EndOfRIB == (next != 0) {
			t.Errorf("%s: %+v", why, told[0])
		}
	}
	c.expect(addr(a), "a", 0)
	step("not up", time.Minute, false, 0)
	for range 2 {
		c.up(a, bothFamilies...)
		step("up", 0, false, quiet)
		c.heard(addr(a))
		step("it speaks", quiet/2, false, quiet/2)
		c.heard(addr(a))
		step("it goes on", quiet/2, false, quiet/2)
		step("it has said all", quiet/2, true, 0)
		c.heard(addr(a))
		step("a change of later", 0, false, 0)
		c.downBecause(a, api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED)
		step("down", 0, false, 0)
	}
	c.up(a, append([]packet.ParameterCapabilityInterface{graceful}, bothFamilies...)...)
	if news, next := c.silences(); news || !next.IsZero() {
		t.Errorf("a neighbour with an End-of-RIB to come: %v, again at %v", news, next)
	}
}

// The library's log is ahead of its events: a session can have been ended before anybody heard that it is up. What ended it is known all the same,
// of a neighbour that nobody knew of, too.
func TestNotificationBeforeTheEvents(t *testing.T) {
	const a = "192.0.2.2"
	tooMany := diagnosis{text: "sent notification: too many", notification: true, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED}
	for _, known := range []bool{true, false} {
		s := newClocked()
		if known {
			s.expect(addr(a), "a", time.Second)
		}
		began := s.at
		s.at = began.Add(time.Millisecond)
		s.diagnose(addr(a), tooMany)
		s.at = began
		s.event(&apiutil.Peer{State: apiutil.PeerState{NeighborAddress: addr(a), SessionState: packet.BGP_FSM_OPENCONFIRM}}, s.at)
		s.up(a, bothFamilies...)
		s.at = began.Add(2 * time.Millisecond)
		s.downBecause(a, api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART)
		chores, _ := s.take()
		if want := []chore{{addr(a), retell}, {addr(a), hold}}; !cmp.Equal(chores, want, cmp.AllowUnexported(chore{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("known %v: chores %v, want %v", known, chores, want)
		}
		if p := s.peers[addr(a)]; p == nil || p.endReason != tooMany.text || p.restarting {
			t.Errorf("known %v: the session is %+v", known, p)
		}
	}
	s := newClocked()
	for i := range 10 * maxEarly {
		s.diagnose(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), tooMany)
	}
	if len(s.early) > maxEarly {
		t.Errorf("%d notifications of neighbours that never had a session are remembered", len(s.early))
	}
}
