//go:build linux

package path

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
)

// world is a node with a pod, as Twill makes them, and a peer with a network and a VTEP.
const world = `
link set lo up
link add eth0 type veth peer name cable
link set cable up
link set eth0 up
addr add 192.0.2.1/24 dev eth0
neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
link add cni0 type bridge
link set cni0 up mtu 1450
addr add 10.244.1.1/24 dev cni0
link set host mtu 1450 master cni0 up
link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning
link set flannel.1 mtu 1450 up
addr add 10.244.1.0/32 dev flannel.1
route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 84
neigh add 10.244.2.0 lladdr 02:00:00:00:01:02 dev flannel.1 nud permanent
`

const insidePod = `
link set eth0 mtu 1450 up
addr add 10.244.1.2/24 dev eth0
route add default via 10.244.1.1
neigh add 10.244.1.1 lladdr 02:00:00:00:02:01 dev eth0 nud permanent
`

// newWorld puts the calling goroutine's thread, which ends with it, into the network namespace of a node, and returns the question of its pod.
func newWorld(t *testing.T) Query {
	t.Helper()
	runtime.LockOSThread()
	pod := newNamespace(t)
	newNamespace(t)
	run(t, "ip", "link", "add", "host", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(pod)))
	for _, line := range lines(world) {
		run(t, "ip", strings.Fields(line)...)
	}
	run(t, "bridge", strings.Fields("fdb add 02:00:00:00:01:02 dev flannel.1 dst 192.0.2.2 self permanent")...)
	sysctl(t, "net/ipv4/ip_forward", "1")
	for _, line := range lines(insidePod) {
		inPod(t, pod, strings.Fields(line)...)
	}
	return Query{Other: netip.MustParseAddr("10.244.2.2"), Pod: Pod{Name: "default/pod", Netns: fmt.Sprintf("/proc/self/fd/%d", int(pod)), IfName: "eth0",
		HostLink: "host", Bridge: "cni0", Address: netip.MustParseAddr("10.244.1.2")}}
}

// newNamespace makes a network namespace and enters it.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func inPod(t *testing.T, pod netns.NsHandle, args ...string) {
	t.Helper()
	run(t, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(pod)), "ip"}, args...)...)
}

// sysctl writes to that of the thread's network namespace.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// summary is what a test compares of a View.
type summary struct {
	Inside, Host, Out, Under, In string
	Forwarding                   bool
	Chains                       []Chain
}

func summarize(v *View) summary {
	s := summary{Inside: v.Pod.Error, Host: link(v.Host), Out: route(v.Out), Forwarding: v.Forwarding, Chains: v.Chains}
	if s.Inside == "" {
		s.Inside = route(v.Pod.Route)
	}
	if v.Out.Underlay != nil {
		s.Under = route(*v.Out.Underlay)
	}
	var in []string
	for _, r := range v.In {
		in = append(in, r.Incoming+": "+route(r))
	}
	s.In = strings.Join(in, ", ")
	return s
}

func link(l Link) string {
	if !l.Found {
		return "missing"
	}
	return fmt.Sprintf("up %t carrier %t mtu %d master %s", l.Up, l.Carrier, l.MTU, l.Master)
}

func route(r Route) string {
	if r.Refused != "" {
		return strings.TrimSpace(r.Refused + " " + text(r.Prefix))
	}
	return fmt.Sprintf("%v via %v dev %s, %s %s %v", r.Prefix, r.NextHop(), r.Device, r.Neighbor.MAC, r.Neighbor.State, r.FDB)
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

var whole = summary{
	Inside:     "0.0.0.0/0 via 10.244.1.1 dev eth0, 02:00:00:00:02:01 permanent []",
	Host:       "up true carrier true mtu 1450 master cni0",
	Out:        "10.244.2.0/24 via 10.244.2.0 dev flannel.1, 02:00:00:00:01:02 permanent [192.0.2.2]",
	Under:      "192.0.2.0/24 via 192.0.2.2 dev eth0, 02:00:00:00:00:02 permanent []",
	In:         "eth0: 10.244.1.0/24 via 10.244.1.2 dev cni0,   [], flannel.1: 10.244.1.0/24 via 10.244.1.2 dev cni0,   []",
	Forwarding: true,
}

// TestLook reads a node of which one thing after the other is broken. Only that differs.
func TestLook(t *testing.T) {
	for _, tt := range []struct {
		name, do string
		but      func(*summary)
	}{
		{"whole", "ip link show lo", func(*summary) {}},
		{"no FDB entry", "bridge fdb del 02:00:00:00:01:02 dev flannel.1 dst 192.0.2.2 self", func(s *summary) {
			s.Out, s.Under = "10.244.2.0/24 via 10.244.2.0 dev flannel.1, 02:00:00:00:01:02 permanent []", ""
		}},
		{"no neighbour", "ip neigh del 10.244.2.0 dev flannel.1", func(s *summary) {
			s.Out, s.Under = "10.244.2.0/24 via 10.244.2.0 dev flannel.1,   []", ""
		}},
		{"no route", "ip route del 10.244.2.0/24", func(s *summary) { s.Out, s.Under = NoRoute, "" }},
		{"blackhole", "ip route add blackhole 10.244.2.2/32", func(s *summary) { s.Out, s.Under = Blackhole+" 10.244.2.2/32", "" }},
		{"prohibited", "ip route add prohibit 10.244.2.0/25", func(s *summary) { s.Out, s.Under = Prohibit+" 10.244.2.0/25", "" }},
		{"no underlay", "ip route add unreachable 192.0.2.2/32", func(s *summary) { s.Under = Unreachable + " 192.0.2.2/32" }},
		{"host link down", "ip link set host down", func(s *summary) { s.Host = "up false carrier false mtu 1450 master cni0" }},
		{"out of the bridge", "ip link set host nomaster", func(s *summary) { s.Host = "up true carrier true mtu 1450 master " }},
		{"a chain of somebody else", "nft add table ip other; add chain ip other theirs { type filter hook forward priority 0 ; policy drop ; }", func(s *summary) {
			s.Chains = []Chain{{Family: "ip", Table: "other", Name: "theirs", Drops: true}}
		}},
		{"a chain of the other family", "nft add table ip6 other; add chain ip6 other theirs { type filter hook forward priority 0 ; policy drop ; }", func(*summary) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := newWorld(t)
			program, rest, _ := strings.Cut(tt.do, " ")
			if program == "nft" {
				run(t, program, rest)
			} else {
				run(t, program, strings.Fields(rest)...)
			}
			want := whole
			tt.but(&want)
			v, err := Look(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, summarize(v)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestLookWithoutForwarding names the sysctl.
func TestLookWithoutForwarding(t *testing.T) {
	q := newWorld(t)
	sysctl(t, "net/ipv4/conf/cni0/forwarding", "0")
	v, err := Look(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if v.Forwarding || v.Sysctl != "net.ipv4.conf.cni0.forwarding" {
		t.Errorf("forwarding %t, sysctl %q", v.Forwarding, v.Sysctl)
	}
}

// TestLookAtNoPod has a pod whose network namespace is gone: the node is looked at all the same.
func TestLookAtNoPod(t *testing.T) {
	q := newWorld(t)
	q.Pod.Netns = "/run/netns/of-a-pod-that-is-gone"
	v, err := Look(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	want := whole
	want.Inside = v.Pod.Error
	if d := cmp.Diff(want, summarize(v)); d != "" || !strings.Contains(v.Pod.Error, "no such file") {
		t.Errorf("error %q, -want +got:\n%s", v.Pod.Error, d)
	}
}
