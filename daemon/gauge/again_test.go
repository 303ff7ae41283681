//go:build linux

package gauge

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

// watch is a Gauge of a node among many whose clock is the test's: questions come at the pace that ask keeps, and outcomes when they would.
type watch struct {
	t       *testing.T
	gauge   *Gauge
	now     time.Time
	lost    func(netip.Addr) bool // that do not answer
	waiting []waitingPeer         // for an answer that does not come, the oldest first
	asked   map[netip.Addr][]time.Time
}

type waitingPeer struct {
	peer *peer
	till time.Time
}

// round is how long it takes to ask 5,000 peers.
const round = 100 * time.Second

func newWatch(t *testing.T, nodes int) *watch {
	w := &watch{t: t, gauge: New("node1", slog.New(slog.DiscardHandler)), now: time.Unix(1_000_000, 0), asked: map[netip.Addr][]time.Time{}, lost: func(netip.Addr) bool { return false }}
	var leases []*store.Lease
	for i := range nodes {
		leases = append(leases, &store.Lease{Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 250), byte(i % 250), 0}), 24), PublicIP: netip.AddrFrom4([4]byte{192, 0, byte(i / 250), byte(i % 250)})})
	}
	w.gauge.SetSelf(leases[0].Subnets())
	w.gauge.SetLeases(leases)
	w.pass(round+2*time.Second, func() bool { return len(w.asked) == nodes-1 })
	return w
}

// pass lets time pass until is says so, or d is over; it returns how long that took.
func (w *watch) pass(d time.Duration, is func() bool) time.Duration {
	begin, n := w.now, 1
	for w.now.Sub(begin) < d && !is() {
		w.now = w.now.Add(pause(n))
		for len(w.waiting) > 0 && !w.waiting[0].till.After(w.now) {
			w.gauge.took(w.waiting[0].peer, outcome{})
			w.waiting = w.waiting[1:]
		}
		var p *peer
		if p, _, n = w.gauge.turn(w.now); p == nil {
			continue
		}
		w.asked[p.address] = append(w.asked[p.address], w.now)
		if w.lost(p.address) {
			w.waiting = append(w.waiting, waitingPeer{p, w.now.Add(patience)})
			continue
		}
		w.gauge.took(p, outcome{rtt: time.Millisecond})
	}
	return w.now.Sub(begin)
}

func (w *watch) never() bool { return false }

// bounded fails the test when somebody was asked more often than once a second, or all of them more than askRate times, or somebody too seldom.
func (w *watch) bounded(since time.Time, most time.Duration) {
	w.t.Helper()
	var all []time.Time
	for a, times := range w.asked {
		times = slices.DeleteFunc(slices.Clone(times), func(at time.Time) bool { return at.Before(since) })
		all = append(all, times...)
		last := since
		for i, at := range append(times, w.now) {
			if i > 0 && i < len(times) && at.Sub(last) < askPeriod {
				w.t.Fatalf("%s is asked again after %s", a, at.Sub(last))
			}
			if at.Sub(last) > most {
				w.t.Fatalf("%s is not asked for %s", a, at.Sub(last))
			}
			last = at
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	for i := askRate; i < len(all); i++ {
		if d := all[i].Sub(all[i-askRate]); d < time.Second {
			w.t.Fatalf("%d questions in %s", askRate+1, d)
		}
	}
}

// Of 5,000 nodes, one that fails is down soon after its turn has come, and who asks asks no more than before.
func TestFailedPeerIsAskedAgain(t *testing.T) {
	w := newWatch(t, 5000)
	p := w.gauge.peers[w.gauge.order[1234]]
	w.lost = func(a netip.Addr) bool { return a == p.address }
	begin := w.now
	untilMissed := w.pass(2*round, func() bool { return p.window.missed > 0 })
	if untilMissed > round+patience+time.Second {
		t.Errorf("its turn comes after %s", untilMissed)
	}
	if again := w.pass(2*round, func() bool { return p.window.state() == Down }); again > 5*time.Second {
		t.Errorf("it is down %s after its first answer is missed", again)
	}
	w.pass(round, w.never)
	w.bounded(begin, round+10*time.Second)
	if have := p.window.asked - len(w.asked[p.address]); have < -1 || have > 0 { // one may be on its way
		t.Errorf("%d questions, %d outcomes", len(w.asked[p.address]), p.window.asked)
	}
	if len(w.gauge.suspects) != 0 {
		t.Errorf("%d suspects, though it is known to be down", len(w.gauge.suspects))
	}
}

// When many fail, those who are well are asked all the same, and the failed ones are found in as many questions as that takes.
func TestManyFailedPeers(t *testing.T) {
	for name, c := range map[string]struct {
		failed func(i int) bool
		down   time.Duration // until all that failed are
		most   time.Duration // between two questions to one peer
	}{
		"a tenth": {func(i int) bool { return i%10 == 0 }, 130 * time.Second, 210 * time.Second},
		"a rack":  {func(i int) bool { return i >= 1000 && i < 1100 }, 110 * time.Second, 110 * time.Second},
		"all":     {func(int) bool { return true }, 370 * time.Second, 210 * time.Second},
		"one":     {func(i int) bool { return i == 0 }, 110 * time.Second, 110 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(t, 5000)
			failed := map[netip.Addr]bool{}
			for i, a := range w.gauge.order {
				failed[a] = c.failed(i)
			}
			w.lost = func(a netip.Addr) bool { return failed[a] }
			begin := w.now
			took := w.pass(10*time.Minute, func() bool {
				for a, is := range failed {
					if is && w.gauge.peers[a].window.state() != Down {
						return false
					}
				}
				return true
			})
			t.Logf("all are down after %s", took)
			if took > c.down {
				t.Errorf("all are down after %s, want %s", took, c.down)
			}
			w.bounded(begin, c.most)
			for _, a := range w.gauge.order {
				if !failed[a] && w.gauge.peers[a].window.state() != Up {
					t.Fatalf("%s is %s", a, w.gauge.peers[a].window.state())
				}
			}
		})
	}
}

// A peer whose lease has gone is not asked again, nor is one that has answered meanwhile.
func TestWhoIsNoSuspectAnyMore(t *testing.T) {
	w := newWatch(t, 60)
	gone, back := w.gauge.order[10], w.gauge.order[20]
	w.lost = func(a netip.Addr) bool { return a == gone || a == back }
	w.pass(time.Minute, func() bool { return len(w.gauge.suspects) > 0 && w.gauge.peers[back].window.missed > 0 })
	w.gauge.SetLeases(slices.DeleteFunc(slices.Clone(w.gauge.leases), func(l *store.Lease) bool { return l.Subnet.Contains(gone) }))
	w.lost = func(netip.Addr) bool { return false }
	asked := len(w.asked[gone])
	w.pass(time.Minute, w.never)
	if have := len(w.asked[gone]); have != asked {
		t.Errorf("who has gone is asked %d times more", have-asked)
	}
	if len(w.gauge.suspects) != 0 || w.gauge.peers[back].window.state() != Up {
		t.Errorf("%d suspects, who is back is %s", len(w.gauge.suspects), w.gauge.peers[back].window.state())
	}
}

// Answers tell of the worst of many peers, in their order.
func TestWorstOfMany(t *testing.T) {
	w := newWatch(t, 500)
	w.lost = func(a netip.Addr) bool { return a.As4()[2]%20 == 7 }
	w.pass(time.Minute, w.never)
	var all []Edge
	for _, p := range w.gauge.Peers() {
		all = append(all, Edge{To: p.Address, State: p.State, Loss: float64(p.Lost) / float64(p.Asked), RTT: p.RTT})
	}
	slices.SortFunc(all, compareEdges)
	_, have, err := readAnswer(w.gauge.worst(w.now), 0)
	brief := func(edges []Edge) (out []string) {
		for _, e := range edges {
			out = append(out, fmt.Sprint(e.To, " ", e.State))
		}
		return out
	}
	if diff := cmp.Diff(brief(all[:maxEdges]), brief(have)); err != nil || diff != "" {
		t.Error(diff, err)
	}
	if all[0].State != Down || all[maxEdges-1].State != Up {
		t.Errorf("the worst are %s to %s", all[0].State, all[maxEdges-1].State)
	}
}
