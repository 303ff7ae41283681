package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// The metrics of many prefixes and sessions cost little, although it costs much to count what each neighbour is told; and in the end the figures are
// right.
func TestCounters(t *testing.T) {
	const neighbours, prefixes = 10, 3000
	seg := peertest.NewSegment(t, ourAddr+"/24")
	in := instance()
	in.IPv6, in.Announcements = false, in.Announcements[:1]
	want := map[netip.Addr]int{} // announced to each
	var raws []*peertest.Raw
	for i := range neighbours {
		p := peer(fmt.Sprintf("192.0.2.%d", 2+i), func(p *bgp.Peer) {
			p.Passive, p.Graceful = true, nil
			if i > 0 {
				p.AS = theirAS + 1 // its own announcements are told to nobody of its AS
			}
			p.Timers = bgp.Timers{Hold: 90 * time.Second, Keepalive: 30 * time.Second, ConnectRetry: 2 * time.Second}
		})
		want[p.Address] = prefixes + 1
		switch {
		case i == 0: // it announces them all
			want[p.Address] = 1
		case i%2 == 0:
			p.Export = []bgp.Rule{{Originated: true}, {Reject: true}}
			want[p.Address] = 1
		}
		in.Peers = append(in.Peers, p)
	}
	s := start(t, in)
	for _, p := range in.Peers {
		raws = append(raws, peertest.DialRaw(t, seg.Host(p.Address.String()+"/24"), netip.MustParseAddrPort(ourAddr+":179"), p.AS))
	}
	for c := range slices.Chunk(manyPrefixes()[:prefixes], 900) {
		var some []netip.Prefix
		for _, p := range c {
			some = append(some, prefix(p))
		}
		raws[0].Send(peertest.Update(usual, some...))
	}
	s.eventually("all routes", 20*time.Second, func() bool { return len(s.Learned()) == prefixes+1 })

	right := func(all []bgp.SessionState) bool {
		for _, st := range all {
			if st.Announced != want[st.Address] {
				return false
			}
		}
		return len(all) == neighbours
	}
	s.eventually("the figures of all", 20*time.Second, func() bool { return right(s.Sessions()) })
	began := time.Now()
	if all := s.Sessions(); !right(all) {
		t.Errorf("sessions %+v, want announced %v", all, want)
	}
	exact := time.Since(began)
	began = time.Now()
	if all := s.Counters(); !right(all) {
		t.Errorf("as last counted, %+v, want announced %v", all, want)
	}
	cheap := time.Since(began)
	t.Logf("%d sessions, %d prefixes: Sessions took %v, Counters %v", neighbours, prefixes, exact, cheap)
	if cheap > exact/4 {
		t.Errorf("Counters took %v, Sessions %v", cheap, exact)
	}
}
