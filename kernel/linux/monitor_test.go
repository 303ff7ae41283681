//go:build linux

package linux

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// watch runs a monitor and returns the channel of its events. It has ended before the test has.
func watch(t testing.TB, h *Handle, m *Monitor) <-chan kernel.Event {
	t.Helper()
	events := make(chan kernel.Event, 100000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx, func(e kernel.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return events
}

func newMonitor(t testing.TB, h *Handle, links ...string) *Monitor {
	t.Helper()
	m, err := h.NewMonitor(links)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// text is an event in one line, for comparison.
func text(e kernel.Event) string {
	var s string
	switch e.Kind {
	case kernel.KindLink:
		s = "link " + e.Link
	case kernel.KindFDB:
		s = e.FDB.String()
	case kernel.KindNeighbor:
		s = e.Neighbor.String()
	case kernel.KindRoute:
		s = e.Route.String()
	}
	if e.Pod {
		s = strings.Replace(s, "link", "pod's link", 1)
		e.Intact = false
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{{"deleted", e.Deleted}, {"foreign", e.Foreign}, {"intact", e.Intact}} {
		if flag.set {
			s += " " + flag.name
		}
	}
	if e.Lost {
		return "lost"
	}
	return s
}

// collect returns the events up to one that bears the marker, which the caller has caused as the last.
func collect(t testing.TB, events <-chan kernel.Event, marker string) []string {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	var list []string
	for {
		select {
		case e := <-events:
			if s := text(e); strings.Contains(s, marker) {
				return list
			} else {
				list = append(list, s)
			}
		case <-deadline.C:
			t.Fatalf("no event with %q came; have %q", marker, list)
		}
	}
}

func TestMonitorTellsOfOurs(t *testing.T) {
	const marker = "10.255.255.0/24"
	for _, tc := range []struct {
		name, commands string
		want           []string
	}{
		{"neighbour deleted", "ip neigh del 10.5.1.0 dev flannel.1",
			[]string{"neighbor 10.5.1.0 dev flannel.1 lladdr 00:00:00:00:00:00 foreign", "neighbor 10.5.1.0 dev flannel.1 lladdr 00:00:00:00:00:00 deleted"}},
		{"neighbour changed", "ip neigh replace 10.5.1.0 lladdr 02:99:00:00:00:00 dev flannel.1 nud permanent",
			[]string{"neighbor 10.5.1.0 dev flannel.1 lladdr 02:99:00:00:00:00"}},
		{"neighbour not permanent", "ip neigh replace 10.5.1.0 lladdr 02:99:00:00:00:00 dev flannel.1 nud stale",
			[]string{"neighbor 10.5.1.0 dev flannel.1 lladdr 02:99:00:00:00:00 foreign"}},
		{"IPv6 neighbour changed", "ip neigh replace fd00:5:1:: lladdr 02:99:00:00:00:00 dev flannel-v6.1 nud permanent",
			[]string{"neighbor fd00:5:1:: dev flannel-v6.1 lladdr 02:99:00:00:00:00"}},
		{"FDB entry deleted", "bridge fdb del 02:01:00:00:00:00 dev flannel.1 self",
			[]string{"fdb 02:01:00:00:00:00 dev flannel.1 dst 192.0.2.11 deleted"}},
		{"FDB entry changed", "bridge fdb replace 02:01:00:00:00:00 dev flannel.1 dst 192.0.2.99 self permanent",
			[]string{"fdb 02:01:00:00:00:00 dev flannel.1 dst 192.0.2.99"}},
		{"route deleted", "ip route del 10.5.1.0/24",
			[]string{"route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 deleted"}},
		{"IPv6 route deleted", "ip -6 route del fd00:5:1::/64",
			[]string{"route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 deleted"}},
		{"route replaced by a foreign one elsewhere", "ip route replace 10.5.1.0/24 via 192.0.2.7",
			[]string{"route 10.5.1.0/24 via 192.0.2.7 dev eth0 foreign"}},
		{"IPv6 route replaced by a foreign one elsewhere", "ip -6 route replace fd00:5:1::/64 via 2001:db8::7",
			[]string{"route fd00:5:1::/64 via 2001:db8::7 dev eth0 foreign"}},
		{"foreign next hop joins an IPv6 route", "ip -6 route append fd00:5:1::/64 via 2001:db8::7 metric 1024",
			[]string{"route fd00:5:1::/64 via 2001:db8::7 dev eth0 via fd00:5:1:: dev flannel-v6.1 foreign"}},
		{"default route moves", "ip route add default via 192.0.2.7\nip route add default via 192.0.2.8 metric 10\nip route del default via 192.0.2.7",
			[]string{"route 0.0.0.0/0 via 192.0.2.7 dev eth0 foreign", "route 0.0.0.0/0 via 192.0.2.8 dev eth0 foreign",
				"route 0.0.0.0/0 via 192.0.2.7 dev eth0 deleted foreign"}},
		{"IPv6 default route", "ip -6 route add default via 2001:db8::7\nip -6 route add default via 2001:db8::7 table 100",
			[]string{"route ::/0 via 2001:db8::7 dev eth0 foreign"}},
		{"route in flanneld's form", "ip route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
			[]string{"route 10.5.2.0/24 via 10.5.2.0 dev flannel.1"}},
		{"foreign route on the VXLAN device", "ip route add 10.5.3.0/24 dev flannel.1",
			[]string{"route 10.5.3.0/24 dev flannel.1 foreign"}},
		{"address", "ip addr add 10.77.0.1/32 dev flannel.1\nip addr del 10.77.0.1/32 dev flannel.1",
			[]string{"link flannel.1 intact", "link flannel.1"}},
		{"uplink's MTU", "ip link set eth0 mtu 1400",
			[]string{"link eth0 intact"}},
		{"device deleted", "ip link del flannel-v6.1",
			[]string{"route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 deleted", "link flannel-v6.1 deleted"}},
		{"device renamed", "ip link set flannel-v6.1 down\nip link set flannel-v6.1 name other",
			[]string{"link flannel-v6.1", "link flannel-v6.1 deleted"}},
		{"port taken off the bridge", "ip link set pod1 nomaster",
			[]string{"link cni0 intact"}},
		{"pod's link set down", "ip link set pod1 down", []string{"pod's link pod1"}},
		{"pod's link down twice", "ip link set pod1 down\nip link set pod1 mtu 1400\nip link set pod1 up\nip link set pod1 down", []string{"pod's link pod1", "pod's link pod1"}},
		{"pod's link deleted", "ip link del pod1", []string{"pod's link pod1", "pod's link pod1 deleted"}},
		{"hairpin mode off", "ip link set pod1 type bridge_slave hairpin off", []string{"link cni0 intact"}},
		{"hairpin mode off, by bridge", "bridge link set dev pod1 hairpin off", []string{"link cni0 intact"}},
		{"foreign traffic", `
ip neigh add 192.0.2.9 lladdr 02:99:00:00:00:00 dev eth0 nud permanent
ip neigh replace 192.0.2.9 lladdr 02:99:00:00:00:01 dev eth0 nud reachable
ip neigh del 192.0.2.9 dev eth0
bridge fdb add 02:88:00:00:00:00 dev pod1 master static
ip route add 10.9.0.0/24 via 192.0.2.9
ip route del 10.9.0.0/24
ip route add 10.9.0.0/24 via 192.0.2.9 proto 84 table 100
ip -6 route add fd00:9::/64 via 2001:db8::9
ip link add foreign type veth peer name foreign1
ip addr add 10.88.0.1/24 dev foreign
ip link set foreign up
ip link del foreign`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+overlays+`
link add cni0 type bridge
link add pod1 type veth peer name in1
link set pod1 master cni0
link set pod1 type bridge_slave hairpin on
link set pod1 up
link set in1 up
`)
			markPod(t, "pod1")
			wantNoErrors(t, h.ApplyFDB(t.Context(), set(fdb("flannel.1", "02:01:00:00:00:00", "192.0.2.11"))))
			m := newMonitor(t, h, "eth0", "cni0")
			if err := m.SetLinks([]string{"eth0", "cni0", "flannel.1", "flannel-v6.1"}); err != nil {
				t.Fatal(err)
			}
			// Our own changes are no news.
			wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(neighbor("flannel.1", "10.5.1.0", "02:01:00:00:00:00"),
				neighbor("flannel-v6.1", "fd00:5:1::", "02:01:00:00:00:00"))))
			wantNoErrors(t, h.ApplyRoutes(t.Context(), set(route("10.5.1.0/24", onLink("10.5.1.0", "flannel.1")),
				route("fd00:5:1::/64", onLink("fd00:5:1::", "flannel-v6.1")))))
			for command := range strings.Lines(strings.TrimSpace(tc.commands)) {
				run(t, command)
			}
			ip(t, "route add "+marker+" via 192.0.2.9 proto 84")
			got := collect(t, watch(t, h, m), marker)
			if slices.ContainsFunc(tc.want, isLink) {
				if !isSubsequence(tc.want, got) {
					t.Errorf("have %q, want among them %q", got, tc.want)
				}
				return
			}
			// The kernel tells of a link's carrier when it gets around to it.
			if diff := cmp.Diff(tc.want, slices.DeleteFunc(got, isLink), comparable); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// markPod makes a link look like the host end of a pod's pair.
func markPod(t *testing.T, link string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "set", link, "alias", kernel.PodLinkAliasPrefix+"a/eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func isLink(event string) bool {
	return strings.Contains(event, "link ") && !strings.Contains(event, " dev ")
}

func isSubsequence(want, got []string) bool {
	for _, g := range got {
		if len(want) > 0 && want[0] == g {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// TestMonitorFollowsLinks makes the device of interest after the monitor: the entries on it are reported nevertheless.
func TestMonitorFollowsLinks(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	events := watch(t, h, newMonitor(t, h, "flannel.1"))
	for range 2 {
		wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4())))
		collect(t, events, "link flannel.1 intact")
		ip(t, "neigh add 10.5.1.0 lladdr 02:01:00:00:00:00 dev flannel.1 nud permanent")
		collect(t, events, "neighbor 10.5.1.0")
		wantNoErrors(t, h.ApplyLinks(t.Context(), remove(flannel4())))
		collect(t, events, "link flannel.1 deleted")
	}
}

// TestMonitorTellsOfTheUnderlay changes what Underlay returns: each change is told, and nothing else is.
func TestMonitorTellsOfTheUnderlay(t *testing.T) {
	const marker = "10.255.255.0/24"
	h := open(t)
	setUp(t, underlay+overlays)
	m := newMonitor(t, h, "eth0", "flannel.1")
	if err := m.WatchUnderlay(); err != nil {
		t.Fatal(err)
	}
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(route("10.5.1.0/24", via("192.0.2.7", "eth0")))))
	setUp(t, `
route add 10.9.0.0/24 via 192.0.2.9
route change 10.9.0.0/24 via 192.0.2.10
route add 10.9.0.0/24 via 192.0.2.9 table 100
route add blackhole 10.9.1.0/24
-6 route add fd00:9::/64 via 2001:db8::9
-6 route add fe80::/64 dev eth0 metric 77
route del 10.9.0.0/24
route add `+marker+" via 192.0.2.9 proto 84")
	want := []string{
		"route 10.9.0.0/24 via 192.0.2.9 dev eth0 foreign",
		"route 10.9.0.0/24 via 192.0.2.10 dev eth0 foreign",
		"route fd00:9::/64 via 2001:db8::9 dev eth0 foreign",
		"route 10.9.0.0/24 via 192.0.2.10 dev eth0 deleted foreign",
	}
	got := slices.DeleteFunc(collect(t, watch(t, h, m), marker), isLink)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestMonitorOverflow fills the queue before it is read: the loss is reported, links made meanwhile are known, and what comes
// after is reported.
func TestMonitorOverflow(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	m := newMonitor(t, h, "flannel.1")
	if err := m.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		ip(t, fmt.Sprintf("addr add 10.77.0.%d/32 dev eth0", i))
	}
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4())))
	events := watch(t, h, m)
	collect(t, events, "lost")
	ip(t, "neigh add 10.5.1.0 lladdr 02:01:00:00:00:00 dev flannel.1 nud permanent")
	collect(t, events, "neighbor 10.5.1.0")
}

// TestMonitorBulk has the handle write 20,000 peers while a monitor runs: nothing is lost, and only the FDB, for which the
// kernel does not say who asked, is reported.
func TestMonitorBulk(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	events := watch(t, h, newMonitor(t, h, "flannel.1", "flannel-v6.1"))
	p := makePeers(20000, false)
	p.apply(t, h)
	const marker = "10.255.255.0/24"
	ip(t, "route add "+marker+" via 192.0.2.9 proto 84")
	got := slices.DeleteFunc(collect(t, events, marker), isLink)
	if len(got) != len(p.fdb) || !strings.HasPrefix(got[0], "fdb ") || slices.Contains(got, "lost") {
		t.Errorf("have %d events, want %d of the FDB; the first is %q", len(got), len(p.fdb), got[:min(len(got), 1)])
	}
}

// TestMonitorFilter checks that the kernel itself drops foreign messages, rather than leave it to the reader.
func TestMonitorFilter(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	m := newMonitor(t, h, "eth0", "flannel.1")
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := makePeers(1000, false)
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(p.neighbors...)))
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(p.routes...)))
	setUp(t, `
neigh add 192.0.2.9 lladdr 02:99:00:00:00:00 dev eth0 nud permanent
route add 10.9.0.0/24 via 192.0.2.9
-6 route add fd00:9::/64 via 2001:db8::9
route del 10.9.0.0/24`)
	buf := make([]byte, receiveSize)
	for {
		var n int
		var err error
		if control := m.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); control != nil {
			t.Fatal(control)
		}
		if err == unix.EAGAIN {
			return
		}
		msg, _, err := nextMessage(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		switch msg.msgType { // the kernel may tell of links and their addresses at any time
		case unix.RTM_NEWLINK, unix.RTM_NEWADDR:
		default:
			t.Errorf("a message of type %d passed", msg.msgType)
		}
	}
}

func TestMonitorOfManyLinks(t *testing.T) {
	for _, n := range []int{0, 1, maxFiltered, maxFiltered + 1} {
		links := make([]int32, n)
		program, err := notificationFilter(1, links, false)
		if err != nil || len(program) == 0 {
			t.Errorf("%d links: %d instructions, %v", n, len(program), err)
		}
	}
}
