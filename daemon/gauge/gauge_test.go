//go:build linux

package gauge

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/store"
)

// patienceOfTests is long: other programs keep the machine busy.
const patienceOfTests = 30 * time.Second

// cluster makes leases of nodes whose pod subnets are part of this machine's loopback network, another part in every process.
func cluster(n int) (all []*store.Lease) {
	pid := os.Getpid()
	for i := range n {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(64 + pid%128), byte(pid / 128 % 256), byte(16 * i)}), 28)
		all = append(all, &store.Lease{Subnet: subnet, PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})})
	}
	return all
}

// start runs a node's Gauge until the test, or stop, ends it.
func start(t *testing.T, name string, self *store.Lease, leases []*store.Lease) (g *Gauge, stop func()) {
	t.Helper()
	g = New(name, slog.New(slog.DiscardHandler))
	g.SetSelf(self.Subnets())
	g.SetLeases(leases)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop = func() {
		cancel()
		if err, ok := <-ended; ok && err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { close(ended) })
	t.Cleanup(cancel)
	return g, stop
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patienceOfTests)
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func TestNodesMeasureEachOther(t *testing.T) {
	leases := cluster(3)
	one, stopOne := start(t, "node1", leases[0], leases)
	two, stopTwo := start(t, "node2", leases[1], leases)
	peer := func(g *Gauge, i int) Peer {
		for _, p := range g.Peers() {
			if p.Address == leases[i].Subnet.Addr().Next() {
				return p
			}
		}
		return Peer{}
	}
	until(t, "node1 hears of node2", func() bool { p := peer(one, 1); return p.State == Up && p.Node == "node2" && p.RTT > 0 && p.Lost == 0 })
	until(t, "node2 hears of node1", func() bool { return peer(two, 0).Node == "node1" })
	until(t, "node3, where nobody listens, refuses", func() bool { p := peer(one, 2); return p.State == Up && p.Refused && p.Node == "" })
	until(t, "node2 tells node1 how it reaches node3", func() bool {
		for _, e := range peer(one, 1).Edges {
			if e.To == leases[2].Subnet.Addr().Next() && e.State == Up {
				return true
			}
		}
		return false
	})
	if have := len(one.Peers()); have != 2 {
		t.Errorf("node1 has %d peers, of which it is one itself", have)
	}
	one.SetLeases(leases[:2])
	if have := one.Peers(); len(have) != 1 || have[0].Node != "node2" {
		t.Errorf("after node3 has left: %+v", have)
	}
	if all, err := registry(one).Gather(); err != nil || len(all) != 5 {
		t.Errorf("%d metrics, %v", len(all), err)
	}
	stopTwo()
	until(t, "node2, which is gone, refuses", func() bool { return peer(one, 1).Refused })
	stopOne()
}

// Who is no node gets no answer, and neither does a question that is shorter than it should be.
func TestWhoIsAnswered(t *testing.T) {
	leases := cluster(2)
	_, stop := start(t, "node1", leases[0], leases)
	defer stop()
	ask := func(from netip.Addr, question []byte) bool {
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(leases[0].Subnet.Addr().Next(), Port)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(question)
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Read(make([]byte, 2*questionSize))
		return err == nil && n > 0
	}
	node, stranger := leases[1].Subnet.Addr().Next(), leases[1].Subnet.Addr().Next().Next()
	until(t, "a node is answered", func() bool { return ask(node, newQuestion(1)) })
	answers := 0
	for range 3 * peerBurst {
		if ask(node, newQuestion(1)) {
			answers++
		}
	}
	if answers == 20*peerBurst {
		t.Errorf("%d questions of one node are all answered", answers)
	}
	for what, answered := range map[string]bool{
		"a stranger":       ask(stranger, newQuestion(1)),
		"a short question": ask(node, newQuestion(1)[:100]),
		"an answer":        ask(node, newAnswer("node2", nil)),
	} {
		if answered {
			t.Errorf("%s is answered", what)
		}
	}
}

// What the node itself cannot send is lost, too: its pods' packets are.
func TestQuestionsThatCannotBeSent(t *testing.T) {
	self := netip.MustParseAddr("127.0.0.1")
	for name, from := range map[string]netip.Addr{"an address that it has not got": netip.MustParseAddr("192.0.2.99"), "nowhere": self} {
		to := self
		if from == self {
			to = netip.MustParseAddr("240.0.0.1") // Linux sends nothing there from a loopback address
		}
		o := exchange(t.Context(), from, to)
		if o.rtt != 0 || o.err == nil {
			t.Errorf("%s: %+v", name, o)
			continue
		}
		g := New("node1", slog.New(slog.DiscardHandler))
		p := &peer{}
		for range downAfter {
			g.took(p, o)
		}
		if p.window.state() != Silent || p.trouble == "" {
			t.Errorf("%s: state %s, trouble %q", name, p.window.state(), p.trouble)
		}
	}
}

func TestQuestionsASecond(t *testing.T) {
	for n, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 10: 100 * time.Millisecond, 50: 20 * time.Millisecond, 5000: 20 * time.Millisecond} {
		if have := pause(n); have != want {
			t.Errorf("%d peers: %s between questions, want %s", n, have, want)
		}
	}
}

// Each of very many is asked, in turn.
func TestTurns(t *testing.T) {
	g := New("node1", slog.New(slog.DiscardHandler))
	var leases []*store.Lease
	for i := range 5000 {
		leases = append(leases, &store.Lease{Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)), PublicIP: netip.AddrFrom4([4]byte{192, 0, byte(i / 250), byte(i % 250)})})
	}
	g.SetSelf(leases[0].Subnets())
	g.SetLeases(leases)
	seen := map[netip.Addr]bool{}
	now := time.Unix(0, 0)
	for range 4999 {
		p, _, n := g.turn(now)
		if p == nil || n != 4999 {
			t.Fatalf("%v of %d", p, n)
		}
		seen[p.address] = true
	}
	if len(seen) != 4999 {
		t.Errorf("%d of 4999 were asked", len(seen))
	}
	if p, _, _ := g.turn(now); p != nil {
		t.Error("a peer is asked twice at a time")
	}
}

func registry(g *Gauge) prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(g)
	return r
}
