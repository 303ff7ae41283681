package gobgp

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

const many = 10_000

func manyPrefixes() []string {
	out := make([]string, many)
	for i := range out {
		out[i] = fmt.Sprintf("10.%d.%d.0/24", 100+i>>8, i&255)
	}
	return out
}

// 10,000 prefixes of a BIRD, next to what another BIRD takes for them. How fast BIRD sends them is what counts in both, see TestManyPrefixesAtOnce.
// What is learned then costs what changes, not what is there.
func TestManyPrefixes(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	conf := birdConf("192.0.2.2", "", manyPrefixes()...)
	conf += fmt.Sprintf("protocol bgp second { local 192.0.2.2 as %d; neighbor 192.0.2.3 as %d; passive; ipv4 { import all; export all; }; }\n", theirAS, 64999)
	// BIRD is to know all of them before anybody asks.
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), conf)
	peertest.Eventually(t, "BIRD has its routes", 10*time.Second, func() bool { return strings.Contains(b.Ctl("show", "route", "count"), fmt.Sprint(many)) })

	other := peertest.StartBIRD(t, seg.Host("192.0.2.3/24"), fmt.Sprintf(`
log stderr all;
router id 192.0.2.3;
protocol device { }
protocol bgp twill { local 192.0.2.3 as 64999; neighbor 192.0.2.2 as %d; connect delay time 1; connect retry time 1; ipv4 { import all; export none; }; }
`, theirAS))
	peertest.Eventually(t, "session of the two BIRDs", 15*time.Second, func() bool { return strings.Contains(other.Ctl("show", "protocols"), "Established") })
	up := time.Now()
	peertest.Eventually(t, "the other BIRD has all", 10*time.Second, func() bool { return strings.Contains(other.Ctl("show", "route", "count"), fmt.Sprint(many)) })
	bird := time.Since(up)
	other.Kill()

	began := cpuTime(t)
	s := start(t, instance(peer("192.0.2.2")))
	s.eventually("all routes", 10*time.Second, func() bool { return len(s.Learned()) >= many+2 })
	took, cpu := time.Since(s.session("192.0.2.2").Since), cpuTime(t)-began
	t.Logf("%d prefixes: %v and %v of CPU; another BIRD %v", many, took, cpu, bird)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	in := instance(peer("192.0.2.2"))
	for i := range 100 {
		in.Announcements = append(in.Announcements, bgp.Announcement{Prefix: prefix(fmt.Sprintf("10.9.%d.0/24", i)), NextHop: addr(ourAddr)})
	}
	changed := time.Now()
	s.set(in)
	s.eventually("100 more", 5*time.Second, func() bool { return len(s.Learned()) == many+102 })
	took = time.Since(changed)
	runtime.ReadMemStats(&after)
	t.Logf("100 more: %v, %d kB allocated", took, (after.TotalAlloc-before.TotalAlloc)>>10)
}

// 10,000 prefixes that are all there at once.
func TestManyPrefixesAtOnce(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	s := start(t, instance(peer("192.0.2.2", func(p *bgp.Peer) { p.Passive = true })))
	raw := peertest.DialRaw(t, host, netip.MustParseAddrPort(ourAddr+":179"), theirAS)
	s.eventually("session", 5*time.Second, func() bool { return s.session("192.0.2.2").Established() })
	var updates []byte
	var some []netip.Prefix
	for _, p := range manyPrefixes() {
		if some = append(some, prefix(p)); len(some) == 900 {
			updates = append(updates, peertest.Update(usual, some...)...)
			some = nil
		}
	}
	updates = append(updates, peertest.Update(usual, some...)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, began := cpuTime(t), time.Now()
	raw.Send(updates)
	s.eventually("all routes", 10*time.Second, func() bool { return len(s.Learned()) == many+2 })
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("%d prefixes: %v, %v of CPU, %d MB allocated", many, took, cpuTime(t)-cpu, (after.TotalAlloc-before.TotalAlloc)>>20)

	began = time.Now()
	raw.Hangup()
	s.eventually("all routes stale", 10*time.Second, func() bool { return s.session("192.0.2.2").Flaps == 1 })
	t.Logf("loss of the session: %v", time.Since(began))
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatalf("getrusage: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
