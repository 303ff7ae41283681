//go:build linux

package gauge

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/twill-cni/twill/store"
)

// manyPeers is a Gauge of a node among 5,000, all of whom have been asked twenty times and have lost some answers.
func manyPeers(b *testing.B, own *store.Lease, others ...*store.Lease) *Gauge {
	b.Helper()
	g := New("node1", slog.New(slog.DiscardHandler))
	g.SetSelf(own.Subnets())
	leases := append([]*store.Lease{own}, others...)
	for i := range 4999 - len(others) {
		leases = append(leases, &store.Lease{Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)), PublicIP: netip.AddrFrom4([4]byte{192, 0, byte(i / 250), byte(i % 250)})})
	}
	g.SetLeases(leases)
	random := rand.New(rand.NewPCG(1, 2))
	for _, p := range g.peers {
		for range windowSize {
			p.window.add(time.Duration(random.IntN(20)) * 10 * time.Microsecond)
		}
	}
	return g
}

// BenchmarkSecond is what a node does in a second at most, at its real pace: it asks 50 of 5,000 peers, answers 50, and finds out what is worst. It prints the
// share of a core that this takes; run it with -benchtime 10x.
func BenchmarkSecond(b *testing.B) {
	leases := cluster(2)
	here, there := leases[0].Subnet.Addr().Next(), leases[1].Subnet.Addr().Next()
	g := manyPeers(b, leases[1], leases[0])
	g.peers[here].limit = rate.NewLimiter(rate.Inf, 0) // it stands for 50 that ask
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(there, Port)))
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = g.serve(b.Context(), conn, rate.NewLimiter(answerRate, answerBurst)) }()
	tick := time.NewTicker(time.Second / askRate)
	defer tick.Stop()
	begin, seconds := cpuTime(b), 0
	for b.Loop() {
		seconds++
		for range askRate {
			<-tick.C
			p := g.peers[here]
			o := exchange(b.Context(), here, there)
			if o.rtt == 0 || o.refused {
				b.Fatalf("no answer: %+v", o)
			}
			g.took(p, o)
		}
	}
	b.ReportMetric(100*(cpuTime(b)-begin).Seconds()/float64(seconds), "%core")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkLooks is what is asked of 5,000 peers, and for how long who takes in outcomes and answers waits meanwhile.
func BenchmarkLooks(b *testing.B) {
	g := manyPeers(b, cluster(1)[0])
	for _, look := range []struct {
		name string
		at   func()
	}{
		{"page", func() { g.Peers() }},
		{"worst", func() { g.said = nil; g.mu.Lock(); g.worst(time.Now()); g.mu.Unlock() }},
		{"metrics", func() { _, _ = registry(g).Gather() }},
	} {
		b.Run(look.name, func(b *testing.B) {
			for b.Loop() {
				look.at()
			}
		})
	}
}
