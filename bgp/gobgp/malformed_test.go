package gobgp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// Path attributes of a neighbour in AS 64513 (0xfc01).
var (
	origin  = peertest.Attribute(0x40, 1, 0)
	asPath  = peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x01)
	nextHop = peertest.Attribute(0x40, 3, 192, 0, 2, 2)
	usual   = attributes(origin, asPath, nextHop)
)

func attributes(parts ...[]byte) []byte { return slices.Concat(parts...) }

// Whatever a neighbour sends, the speaker stays up, and nothing wrong is learned: the message is treated as a withdrawal, or the session ends (RFC
// 7606).
func TestMalformed(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	bad, good := prefix("10.66.0.0/24"), prefix("10.2.0.0/24")
	hop := func(a ...byte) []byte { return attributes(origin, asPath, peertest.Attribute(0x40, 3, a...)) }
	many := func(n int) []byte {
		var out []byte
		for start := 0; start < n; start += 800 {
			var ps []netip.Prefix
			for i := start; i < min(n, start+800); i++ {
				ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
			}
			out = append(out, peertest.Update(usual, ps...)...)
		}
		return out
	}
	short := peertest.Update(usual, bad)
	for _, c := range []struct {
		name   string
		send   []byte
		alive  bool // the session goes on
		usable bool // the prefix is learned
	}{
		{"AS4_PATH first", peertest.Update(attributes(peertest.Attribute(0xc0, 17, 2, 1, 0, 0, 0xfc, 0x01), origin, asPath, nextHop), bad), true, true},
		// RFC 6793, section 4.1, wants AS4_PATH discarded here. The library puts it in the place of AS_PATH, where the wrong AS is seen.
		{"AS4_PATH first, another AS", peertest.Update(attributes(peertest.Attribute(0xc0, 17, 2, 1, 0, 0, 0xfc, 0x02), origin, asPath, nextHop), bad), true, false},
		{"AS4_PATH first, malformed", peertest.Update(attributes(peertest.Attribute(0xc0, 17, 2, 9, 0), origin, asPath, nextHop), bad), true, false},
		{"AS_PATH of length zero", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2), nextHop), bad), true, false},
		{"AS_PATH of another AS", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x77), nextHop), bad), true, false},
		{"AS_PATH with a wrong segment length", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 9, 0, 0, 0xfc, 0x01), nextHop), bad), true, false},
		{"AS_PATH with our AS", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 2, 0, 0, 0xfc, 0x01, 0, 0, 0xfc, 0x00), nextHop), bad), true, false},
		{"AS_PATH with our AS first in a set", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x01, 1, 2, 0, 0, 0xfc, 0x00, 0, 0, 0, 7), nextHop), bad), true, false},
		{"AS_PATH with our AS last in a set", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x01, 1, 2, 0, 0, 0, 7, 0, 0, 0xfc, 0x00), nextHop), bad), true, false},
		{"AS_PATH with others in a set", peertest.Update(attributes(origin, peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x01, 1, 2, 0, 0, 0, 7, 0, 0x0a, 0xfc, 0x00), nextHop), bad), true, true},
		{"no AS_PATH", peertest.Update(attributes(origin, nextHop), bad), true, false},
		{"no ORIGIN", peertest.Update(attributes(asPath, nextHop), bad), true, false},
		{"no NEXT_HOP", peertest.Update(attributes(origin, asPath), bad), true, false},
		{"unknown ORIGIN", peertest.Update(attributes(peertest.Attribute(0x40, 1, 9), asPath, nextHop), bad), true, false},
		{"NEXT_HOP 0.0.0.0", peertest.Update(hop(0, 0, 0, 0), bad), true, false},
		{"NEXT_HOP 127.0.0.1", peertest.Update(hop(127, 0, 0, 1), bad), true, false},
		{"NEXT_HOP 224.0.0.1", peertest.Update(hop(224, 0, 0, 1), bad), true, false},
		{"NEXT_HOP 255.255.255.255", peertest.Update(hop(255, 255, 255, 255), bad), true, false},
		{"NEXT_HOP of three bytes", peertest.Update(hop(192, 0, 2), bad), true, false},
		{"attribute twice", peertest.Update(attributes(origin, asPath, nextHop, nextHop), bad), true, true},
		{"attributes longer than the message", peertest.Message(2, []byte{0, 0, 0, 200, 0x40, 1, 1, 0}), false, false},
		{"prefix of 33 bits", peertest.Message(2, attributes([]byte{0, 0, 0, byte(len(usual))}, usual, []byte{33, 10, 66, 0, 0, 0})), false, false},
		{"marker", append([]byte{0}, short[1:]...), false, false},
		{"unknown type", peertest.Message(77, nil), false, false},
		{"message of 18 bytes", append(slices.Repeat([]byte{0xff}, 16), 0, 18, 2), false, false},
		{"100,000 prefixes", many(100_000), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.Passive, p.MaxPrefixes, p.Graceful = true, 1000, nil })))
			raw := peertest.DialRaw(t, host, netip.MustParseAddrPort(ourAddr+":179"), theirAS)
			raw.Send(peertest.Update(usual, bad)) // what comes next replaces it
			s.eventually("route", 5*time.Second, func() bool { return len(s.learned()) == 1 })
			raw.Send(c.send)
			raw.Send(peertest.Update(usual, good))
			if !c.alive {
				s.eventually("end of the session", 5*time.Second, func() bool { return !s.session("192.0.2.2").Established() && len(s.learned()) == 0 })
				return
			}
			want := []string{"10.2.0.0/24 via [192.0.2.2]"}
			if c.usable {
				want = append(want, "10.66.0.0/24 via [192.0.2.2]")
			}
			s.eventually("the session goes on", 5*time.Second, func() bool { return slices.Contains(s.learned(), want[0]) })
			if got := s.learned(); !slices.Equal(got, want) {
				t.Errorf("learned %v, want %v", got, want)
			}
		})
	}
}

// A message that ends early is no message.
func TestTruncated(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.Passive, p.Graceful = true, nil })))
	raw := peertest.DialRaw(t, host, netip.MustParseAddrPort(ourAddr+":179"), theirAS)
	s.eventually("session", 5*time.Second, func() bool { return s.session("192.0.2.2").Established() })
	whole := peertest.Update(usual, prefix("10.66.0.0/24"))
	raw.Send(whole[:len(whole)-3])
	raw.Hangup()
	s.eventually("end of the session", 5*time.Second, func() bool { return s.session("192.0.2.2").Flaps == 1 })
	if got := s.learned(); len(got) != 0 {
		t.Errorf("learned %v, want nothing", got)
	}
}
