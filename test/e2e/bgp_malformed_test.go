package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// Messages of a neighbour in AS 65001 (0xfde9).
const update = 2

var (
	bgpOrigin = peertest.Attribute(0x40, 1, 0)
	bgpASPath = peertest.Attribute(0x40, 2, 2, 1, 0, 0, 0xfd, 0xe9)
)

// bgpNextHop makes the attribute.
func bgpNextHop(a netip.Addr) []byte { return peertest.Attribute(0x40, 3, a.AsSlice()...) }

// What a router sends that is broken or out of proportion reaches neither the kernel nor another session, and the daemon lives on.
func TestBGPMalformedUpdates(t *testing.T) {
	t.Parallel()
	const soon = 5 * time.Second // before the hold time is over, which ends the session and with it whatever is wrong
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	node := l.Nodes()[0]
	var tors []*lab.Node // a session that ended begins again after five seconds only: one for each that is to end
	config := "peers:\n"
	for _, name := range []string{"tor", "length", "bits", "type", "many"} {
		tor := outsider(t, l, name)
		tors = append(tors, tor)
		config += fmt.Sprintf("- {name: %s, address: %s, as: %d, passive: true, maxPrefixes: 1000, gracefulRestart: {enabled: false}}\n",
			name, address(t, tor, false), rackAS)
	}
	must(t, node.SetBGPConfig([]byte(config)))
	dial := func(tor *lab.Node) *peertest.Raw {
		return peertest.DialRaw(t, peertest.At(t, tor.Netns().Path()), netip.AddrPortFrom(address(t, node, false), 179), rackAS)
	}
	healthy, pid := programmed(t, node), node.DaemonPID()
	bad, good := netip.MustParsePrefix("10.66.0.0/24"), netip.MustParsePrefix(behind4)
	own := netip.MustParsePrefix(subnetOf(t, l, node))
	half := netip.PrefixFrom(own.Addr(), own.Bits()+1)

	raw, hop := dial(tors[0]), bgpNextHop(address(t, tors[0], false))
	usual := slices.Concat(bgpOrigin, bgpASPath, hop)
	for _, c := range []struct {
		name string
		send []byte // takes the place of a good route to bad, or is for another prefix
	}{
		{"AS4_PATH first, malformed", peertest.Update(slices.Concat(peertest.Attribute(0xc0, 17, 2, 9, 0), usual), bad)},
		{"AS_PATH of length zero", peertest.Update(slices.Concat(bgpOrigin, peertest.Attribute(0x40, 2), hop), bad)},
		{"NEXT_HOP 0.0.0.0", peertest.Update(slices.Concat(bgpOrigin, bgpASPath, bgpNextHop(netip.IPv4Unspecified())), bad)},
		{"NEXT_HOP is the node", peertest.Update(slices.Concat(bgpOrigin, bgpASPath, bgpNextHop(address(t, node, false))), bad)},
		{"NEXT_HOP of three bytes", peertest.Update(slices.Concat(bgpOrigin, bgpASPath, peertest.Attribute(0x40, 3, 172, 30, 1)), bad)},
		{"the node's own pods and half of them", slices.Concat(peertest.Update(usual, own, half), withdraw(bad))},
	} {
		raw.Send(peertest.Update(usual, bad))
		within(t, enough, hasRoute(t, node, bad.String(), true))
		raw.Send(slices.Concat(c.send, peertest.Update(usual, good)))
		within(t, enough, hasRoute(t, node, good.String(), true))
		within(t, enough, hasRoute(t, node, bad.String(), false))
		raw.Send(withdraw(good))
		within(t, soon, sameKernel(t, node, healthy))
		t.Logf("%s: the kernel is as before", c.name)
	}
	raw.Hangup()

	var many []byte
	for first := 0; first < 100_000; first += 800 {
		var prefixes []netip.Prefix
		for i := first; i < first+800; i++ {
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		}
		many = append(many, peertest.Update(usual, prefixes...)...)
	}
	for i, send := range [][]byte{
		peertest.Message(update, []byte{0, 0, 0, 200, 0x40, 1, 1, 0}),                                                  // attributes longer than the message
		peertest.Message(update, slices.Concat([]byte{0, 0, 0, byte(len(usual))}, usual, []byte{33, 10, 66, 0, 0, 0})), // a prefix of 33 bits
		peertest.Message(77, nil), // no such type
		many,
	} {
		raw := dial(tors[1+i])
		raw.Send(slices.Concat(peertest.Update(slices.Concat(bgpOrigin, bgpASPath, bgpNextHop(address(t, tors[1+i], false))), bad)))
		within(t, enough, hasRoute(t, node, bad.String(), true))
		raw.Send(send)
		<-raw.Closed
		within(t, enough, sameKernel(t, node, healthy))
		s, err := peerState(t, l, node, tors[1+i].Name)
		if err != nil || s.Established() || s.LastError == "" {
			t.Errorf("the session with %s: %+v, %v", tors[1+i].Name, s, err)
		}
		t.Logf("%s: %s", s.Name, s.LastError)
	}
	if err := ready(t, node); err != nil || node.DaemonPID() != pid {
		t.Errorf("the daemon is %d, was %d; it says %v", node.DaemonPID(), pid, err)
	}
	if s, err := peerState(t, l, node, "node node2"); err != nil || !s.Established() || s.Flaps > 0 {
		t.Errorf("the session with node2 was disturbed: %+v, %v", s, err)
	}
	must(t, reachable(t, l))
}

// withdraw makes an UPDATE that takes an IPv4 prefix back.
func withdraw(p netip.Prefix) []byte {
	a := p.Addr().As4()
	route := append([]byte{byte(p.Bits())}, a[:(p.Bits()+7)/8]...)
	return peertest.Message(update, slices.Concat([]byte{0, byte(len(route))}, route, []byte{0, 0}))
}

// sameKernel asks whether what Twill keeps in the node's kernel is what it was.
func sameKernel(t *testing.T, n *lab.Node, before string) func() error {
	return func() error {
		if now := programmed(t, n); now != before {
			return fmt.Errorf("the kernel of %s is not as it was:\n%s", n.Name, difference(before, now))
		}
		return nil
	}
}
