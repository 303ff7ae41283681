package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// memoryOf returns a figure of /proc/<pid>/status in bytes, such as VmRSS or VmHWM.
func memoryOf(t *testing.T, pid int, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			must(t, err)
			return n << 10
		}
	}
	t.Fatalf("there is no %s in\n%s", name, text)
	panic("unreachable")
}

// flood makes UPDATEs for so many host routes from 11.0.0.0 on.
func flood(n int, attributes []byte) []byte {
	const each = 800 // as many as a message of 4,096 bytes holds (RFC 4271, section 4.1)
	var out []byte
	prefixes := make([]netip.Prefix, 0, each)
	for first := 0; first < n; first += each {
		prefixes = prefixes[:0]
		for i := first; i < min(n, first+each); i++ {
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{11 + byte(i>>24), byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		}
		out = append(out, peertest.Update(attributes, prefixes...)...)
	}
	return out
}

// A router that announces a million prefixes where a thousand are allowed loses its session, and nobody else loses anything: not the kernel, not
// the node's memory, not the other sessions. One with graceful restart keeps nothing either.
func TestBGPMillionPrefixes(t *testing.T) {
	t.Parallel()
	const limit, million, little = 1000, 1_000_000, 48 << 20
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	node := l.Nodes()[0]
	good, many, graceful := outsider(t, l, "good"), outsider(t, l, "many"), outsider(t, l, "graceful")
	r := router{as: rackAS, nodes: []*lab.Node{node}}
	config := "peers:\n"
	for _, tor := range []*lab.Node{good, many, graceful} {
		config += fmt.Sprintf("- {name: %s, address: %s, as: %d, passive: true, maxPrefixes: %d}\n", tor.Name, address(t, tor, false), rackAS, limit)
	}
	must(t, node.SetBGPConfig([]byte(config)))
	r.announces = true
	r.bird(t, good)
	var routes strings.Builder
	for i := range limit + 1 {
		fmt.Fprintf(&routes, " route 11.1.%d.%d/32 blackhole;", i>>8, i&255)
	}
	router{as: rackAS, nodes: r.nodes, global: "protocol static { ipv4;" + routes.String() + " }"}.bird(t, graceful)
	says(t, l, node, graceful.Name, "maximum number of prefixes")
	within(t, enough, hasRoute(t, node, behind4, true))
	within(t, enough, hasRoute(t, node, "11.1.", false))
	others := startLoad(t, l.Pods()[0], addr(t, l.Pods()[1], false), 5*time.Millisecond)
	healthy, pid := programmed(t, node), node.DaemonPID()

	raw := peertest.DialRaw(t, peertest.At(t, many.Netns().Path()), netip.AddrPortFrom(address(t, node, false), 179), rackAS)
	before := memoryOf(t, pid, "VmRSS")
	raw.Send(flood(million, slices.Concat(bgpOrigin, bgpASPath, bgpNextHop(address(t, many, false)))))
	<-raw.Closed
	if cease := [2]byte{6, 1}; raw.Notification != cease { // Cease, maximum number of prefixes (RFC 4486, section 4)
		t.Errorf("the session ended with %v, want %v", raw.Notification, cease)
	}
	says(t, l, node, many.Name, "maximum number of prefixes")
	within(t, enough, sameKernel(t, node, healthy))
	if grown := memoryOf(t, pid, "VmHWM") - before; grown > little {
		t.Errorf("the daemon needed %d MiB more", grown>>20)
	} else {
		t.Logf("the daemon needed %d MiB more, beside %d", grown>>20, before>>20)
	}
	for _, name := range []string{"good", "node node2"} {
		if s, err := peerState(t, l, node, name); err != nil || !s.Established() || s.Flaps > 0 {
			t.Errorf("%s was disturbed: %+v, %v", name, s, err)
		}
	}
	if err := ready(t, node); err != nil || node.DaemonPID() != pid {
		t.Errorf("the daemon is %d, was %d; it says %v", node.DaemonPID(), pid, err)
	}
	others.endWhole(t)
}
