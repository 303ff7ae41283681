//go:build linux

package podnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// withinNetns runs f on a thread in the network namespace.
func withinNetns(t *testing.T, path string, f func()) {
	t.Helper()
	ns, err := os.Open(path)
	check(t, err)
	defer ns.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		check(t, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
		f()
	}()
	<-done
}

// give adds an IPv6 address to a link, sets it up, and waits until the address can receive.
func give(t *testing.T, name, address string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	a, err := netlink.ParseAddr(address)
	check(t, err)
	a.Flags = unix.IFA_F_NODAD
	s, err := openSocket()
	check(t, err)
	defer s.close()
	w, err := WatchLocals()
	check(t, err)
	defer w.Close()
	check(t, netlink.AddrAdd(l, a))
	check(t, netlink.LinkSetUp(l))
	check(t, w.await(s, []netip.Prefix{netip.MustParsePrefix(address)}, localPatience))
	return l
}

// neighbourNode connects the namespace of the calling thread, a node, to another one, and returns a socket there from which the node's
// pods can be reached. Neither has to ask for the other's MAC address.
func neighbourNode(t *testing.T, other string) *net.UDPConn {
	t.Helper()
	ns, err := os.Open(other)
	check(t, err)
	defer ns.Close()
	macs := [2]net.HardwareAddr{{2, 0, 0, 0, 1, 1}, {2, 0, 0, 0, 1, 2}}
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", HardwareAddr: macs[0]},
		PeerName: "up1", PeerHardwareAddr: macs[1], PeerNamespace: netlink.NsFd(ns.Fd())}))
	knows := func(l netlink.Link, ip string, mac net.HardwareAddr) {
		check(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: mac, State: netlink.NUD_PERMANENT}))
	}
	var conn *net.UDPConn
	withinNetns(t, other, func() {
		knows(give(t, "up1", "fd01::2/64"), "fd01::1", macs[0])
		conn, err = net.ListenUDP("udp6", nil)
		check(t, err)
	})
	knows(give(t, "up0", "fd01::1/64"), "fd01::2", macs[1])
	withinNetns(t, other, func() { // both ends have a carrier now
		_, pods, _ := net.ParseCIDR("fd00::/64")
		check(t, netlink.RouteAdd(&netlink.Route{Dst: pods, Gw: net.ParseIP("fd01::1")}))
	})
	return conn
}

// TestFirstPacketFromAnotherNode sends one IPv6 packet to the first pod of a node right after its ADD. It gets there. An ADD
// goes on after localPatience, so a machine under heavy load may lose one now and then; without the wait a third are lost.
func TestFirstPacketFromAnotherNode(t *testing.T) {
	const attempts, tolerated = 25, 1
	lost := 0
	for range attempts {
		inNetns(t, func(h *Handle, pod, other string) {
			from := neighbourNode(t, other)
			defer from.Close()
			var in *net.UDPConn
			withinNetns(t, pod, func() {
				var err error
				in, err = net.ListenUDP("udp6", &net.UDPAddr{Port: 7})
				check(t, err)
			})
			defer in.Close()

			br, err := h.EnsureBridge(bridge())
			check(t, err)
			pair := pairOf(alice, "veth0", br)
			check(t, h.CreatePair(pod, pair))
			check(t, h.UpPair("veth0"))
			c := kernel.PodConfig{IfName: "eth0", MAC: pair.PodMAC,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.5.1.2/24"), netip.MustParsePrefix("fd00::2/64")}}
			check(t, h.ConfigurePod(pod, c))
			check(t, h.Announce(pod, "veth0", c))
			_, err = from.WriteToUDP([]byte("x"), &net.UDPAddr{IP: net.ParseIP("fd00::2"), Port: 7})
			check(t, err)
			check(t, in.SetReadDeadline(time.Now().Add(time.Second)))
			if _, err = in.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				lost++
				return
			}
			check(t, err)
		})
		if t.Failed() {
			return
		}
	}
	if lost > tolerated {
		t.Errorf("%d of %d first packets were lost", lost, attempts)
	}
}
