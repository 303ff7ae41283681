//go:build linux

package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: network namespaces need root")
		return
	}
	os.Exit(m.Run())
}

// inNetns runs f on a thread in a network namespace of its own, with the paths of two more.
func inNetns(t *testing.T, f func(h *Handle, a, b string)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var paths []string
		for range 3 {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			ns, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				t.Error(err)
				return
			}
			defer ns.Close()
			paths = append(paths, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
		}
		h, err := Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		f(h, paths[0], paths[1])
	}()
	<-done
}

// check ends the goroutine, and with it the test, on an error: t.Fatal must not be called outside the test's own.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

var (
	alice = kernel.PodOwner{ContainerID: "alice", IfName: "eth0"}
	bob   = kernel.PodOwner{ContainerID: "bob", IfName: "eth0"}
)

func bridge() kernel.PodBridge {
	return kernel.PodBridge{Name: "cni0", MTU: 1450, Gateways: []netip.Prefix{netip.MustParsePrefix("10.5.1.1/24"), netip.MustParsePrefix("fd00::1/64")}}
}

func pairOf(owner kernel.PodOwner, name string, on kernel.PodBridgeState) kernel.PodPair {
	return kernel.PodPair{Owner: owner, HostLink: name, HostMAC: kernel.MAC{2, 1}, PodMAC: kernel.MAC{2, 2}, MTU: 1450, Bridge: on.Index, Hairpin: true}
}

func linkNames(t *testing.T) []string {
	links, err := netlink.LinkList()
	check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func TestWholeAttachment(t *testing.T) {
	inNetns(t, func(h *Handle, ns, _ string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		pair := pairOf(alice, "veth0", br)
		check(t, h.CreatePair(ns, pair))
		check(t, h.Shape("veth0", alice, kernel.PodShape{Device: "ifb-0", MTU: 1450, Ingress: kernel.Rate{Bits: 1e6}, Egress: kernel.Rate{Bits: 1e6}}))
		check(t, h.UpPair("veth0"))
		scope := 253
		pod := kernel.PodConfig{IfName: "eth0", MAC: pair.PodMAC, Addresses: []netip.Prefix{netip.MustParsePrefix("10.5.1.2/24"), netip.MustParsePrefix("fd00::2/64")},
			Routes: []kernel.PodRoute{
				{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.5.1.1"), MTU: 1400, AdvMSS: 1300},
				{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::1"), Priority: 7},
				{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("198.51.100.1")}, // not in the pod's subnet
				{Dst: netip.MustParsePrefix("203.0.113.0/24"), Scope: &scope},
				{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.5.1.1"), Table: 1000},
			}}
		check(t, h.ConfigurePod(ns, pod))
		check(t, h.Announce(ns, "veth0", pod))

		have, err := h.InspectPod(ns, "veth0", "eth0")
		check(t, err)
		wantHost := kernel.PodLink{Name: "veth0", Owner: alice, MAC: pair.HostMAC, MTU: 1450, Master: br.Index, Up: true}
		if have.Host != wantHost || !have.Connected || have.Master != "cni0" || !have.Hairpin || !have.Ingress || !have.Egress {
			t.Errorf("host side is %+v", have)
		}
		if have.Pod.Name != "eth0" || have.Pod.MAC != pair.PodMAC || have.Pod.MTU != 1450 || !have.Pod.Up {
			t.Errorf("pod side is %+v", have.Pod)
		}
		for _, a := range pod.Addresses {
			if !slices.Contains(have.Pod.Addresses, a) {
				t.Errorf("address %s is missing in %v", a, have.Pod.Addresses)
			}
		}
		for _, r := range pod.Routes[:4] {
			if !slices.ContainsFunc(have.Pod.Routes, func(h kernel.PodRoute) bool { return h.Dst == r.Dst && h.Gateway == r.Gateway }) {
				t.Errorf("route %s is missing in %+v", r.Dst, have.Pod.Routes)
			}
		}
		shapers, err := h.Shapers()
		check(t, err)
		if diff := cmp.Diff(map[string]kernel.PodOwner{"ifb-0": alice}, shapers); diff != "" {
			t.Error(diff)
		}
		links, err := h.PodLinks()
		check(t, err)
		if diff := cmp.Diff([]kernel.PodLink{wantHost}, links); diff != "" {
			t.Error(diff)
		}
		for _, want := range []bool{true, false} {
			unshaped, err := h.Unshape("ifb-0", alice)
			check(t, err)
			removed, err := h.RemovePair("veth0", alice)
			check(t, err)
			if unshaped != want || removed != want {
				t.Errorf("removed %t and %t, want %t", unshaped, removed, want)
			}
		}
		if diff := cmp.Diff([]string{"cni0", "lo"}, linkNames(t)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestForeignLinksStay(t *testing.T) {
	inNetns(t, func(h *Handle, a, b string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		check(t, h.CreatePair(a, pairOf(alice, "veth0", br)))
		check(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ifb-0", Alias: ""}}))
		ifb, err := netlink.LinkByName("ifb-0")
		check(t, err)
		check(t, netlink.LinkSetAlias(ifb, "somebody's"))
		before := linkNames(t)
		tests := map[string]func() error{
			"RemovePair of another owner": func() error { _, err := h.RemovePair("veth0", bob); return err },
			"RemovePair of no veth":       func() error { _, err := h.RemovePair("cni0", alice); return err },
			"CreatePair over another's":   func() error { return h.CreatePair(b, pairOf(bob, "veth0", br)) },
			"Unshape of a foreign ifb":    func() error { _, err := h.Unshape("ifb-0", alice); return err },
		}
		for name, f := range tests {
			if err := f(); !errors.Is(err, kernel.ErrForeignLink) {
				t.Errorf("%s: have error %v, want ErrForeignLink", name, err)
			}
		}
		if diff := cmp.Diff(before, linkNames(t)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLeftoversAreReplaced(t *testing.T) {
	inNetns(t, func(h *Handle, a, b string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		check(t, h.CreatePair(a, pairOf(alice, "veth0", br)))
		check(t, h.CreatePair(b, pairOf(alice, "veth0", br))) // the sandbox was made again
		if state, err := h.InspectPod(a, "veth0", "eth0"); err != nil || state.Pod.Name != "" {
			t.Errorf("the old sandbox has %+v, error %v", state.Pod, err)
		}
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth1"}, PeerName: "x"})) // killed before it was marked
		check(t, h.CreatePair(a, pairOf(bob, "veth1", br)))
		for range 2 {
			check(t, h.Shape("veth1", bob, kernel.PodShape{Device: "ifb-1", MTU: 1450, Egress: kernel.Rate{Bits: 1e6}}))
			link, err := netlink.LinkByName("veth1")
			check(t, err)
			check(t, netlink.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: qdiscIngress}}))
		}
	})
}

func TestInterfaceExists(t *testing.T) {
	inNetns(t, func(h *Handle, a, _ string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		check(t, h.CreatePair(a, pairOf(alice, "veth0", br)))
		before := linkNames(t)
		if err := h.CreatePair(a, pairOf(bob, "veth1", br)); !errors.Is(err, kernel.ErrInterfaceExists) {
			t.Errorf("have error %v, want ErrInterfaceExists", err)
		}
		if diff := cmp.Diff(before, linkNames(t)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNetnsErrors(t *testing.T) {
	inNetns(t, func(h *Handle, a, _ string) {
		tests := map[string]error{"": kernel.ErrNetnsMissing, "/nowhere": kernel.ErrNetnsMissing, "/dev/null/x": kernel.ErrNetnsMissing,
			"/dev/null": kernel.ErrNoNetns, "/proc/self/ns/mnt": kernel.ErrNoNetns, "/proc/thread-self/ns/net": kernel.ErrHostNetns, a: nil}
		for path, want := range tests {
			if err := h.CheckNetns(path); !errors.Is(err, want) {
				t.Errorf("%q: have error %v, want %v", path, err, want)
			}
		}
	})
}

func TestBridgeErrors(t *testing.T) {
	inNetns(t, func(h *Handle, _, _ string) {
		b := bridge()
		b.Name = "lo"
		if _, err := h.EnsureBridge(b); !errors.Is(err, kernel.ErrNoBridge) {
			t.Errorf("have error %v, want ErrNoBridge", err)
		}
	})
}

// The kernel's own explanation is part of the error.
func TestErrorsHaveWords(t *testing.T) {
	inNetns(t, func(h *Handle, ns, _ string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		check(t, h.CreatePair(ns, pairOf(alice, "veth0", br)))
		nowhere := 255
		err = h.ConfigurePod(ns, kernel.PodConfig{IfName: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.5.1.2/24")},
			Routes: []kernel.PodRoute{{Dst: netip.MustParsePrefix("10.6.0.0/16"), Scope: &nowhere}}})
		const want = "add route 10.6.0.0/16: invalid argument (Invalid scope)"
		if err == nil || err.Error() != want {
			t.Errorf("have error %v, want %s", err, want)
		}
	})
}

func TestBridgeIsMadeOnce(t *testing.T) {
	inNetns(t, func(_ *Handle, _, _ string) {
		self, err := os.Open("/proc/thread-self/ns/net")
		check(t, err)
		defer self.Close()
		states := make([]kernel.PodBridgeState, 16)
		var wg sync.WaitGroup
		for i := range states {
			wg.Go(func() {
				runtime.LockOSThread()
				check(t, unix.Setns(int(self.Fd()), unix.CLONE_NEWNET))
				h, err := Open()
				check(t, err)
				defer h.Close()
				states[i], err = h.EnsureBridge(bridge())
				check(t, err)
			})
		}
		wg.Wait()
		for _, s := range states {
			if s != states[0] {
				t.Errorf("bridges %+v and %+v", s, states[0])
			}
		}
	})
}

func TestBucket(t *testing.T) {
	tests := []struct {
		name string
		rate kernel.Rate
		want bucket
	}{
		{"burst given", kernel.Rate{Bits: 80_000_000, Burst: 800_000}, bucket{rate: 10_000_000, burst: 100_000, limit: 600_000}},
		{"no burst", kernel.Rate{Bits: 80_000_000}, bucket{rate: 10_000_000, burst: 1_000_000, limit: 1_500_000}},
		{"burst of a runtime that means none", kernel.Rate{Bits: 80_000_000, Burst: 1<<32 - 1}, bucket{rate: 10_000_000, burst: 1_000_000, limit: 1_500_000}},
		{"burst smaller than a packet", kernel.Rate{Bits: 80_000_000, Burst: 8}, bucket{rate: 10_000_000, burst: 1468, limit: 501_468}},
		{"slow", kernel.Rate{Bits: 8_000, Burst: 1<<32 - 1}, bucket{rate: 1_000, burst: 2936, limit: 2986}},
		{"slowest", kernel.Rate{Bits: 1}, bucket{rate: 1, burst: 2936, limit: 2936}},
		{"beyond 32 bits", kernel.Rate{Bits: 400e9, Burst: 1 << 40}, bucket{rate: 50e9, burst: 1 << 31, limit: 50e9/20 + 1<<31}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := bucketOf(test.rate, 1450); got != test.want {
				t.Errorf("have %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{"10.5.1.7/24": "10.5.1.255", "10.5.1.7/16": "10.5.255.255", "10.5.1.9/29": "10.5.1.15", "10.5.1.9/30": "10.5.1.11"} {
		if got := broadcast(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
}

// What the kernel says is trusted, and still no length in it may lead astray.
func FuzzParse(f *testing.F) {
	f.Add(append(ifinfo(3, 1, 1), 8, 0, 4, 0, 1, 2, 3, 4))
	f.Add(append(ifaddr(netip.MustParsePrefix("10.0.0.1/24"), 2), 8, 0, 2, 0, 10, 0, 0, 1))
	f.Fuzz(func(t *testing.T, body []byte) {
		parseLink(body)
		parseAddress(body)
		parseRoute(body, 1)
		_ = answer(message{}, unix.NLM_F_ACK_TLVS, body)
	})
}
