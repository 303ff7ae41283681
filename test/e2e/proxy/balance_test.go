package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// balanced has 100,000 datagrams, each from a port of its own, find one of four endpoints, and asks by a chi-square test whether that was by equal
// chances.
func balanced(t *testing.T, r *rig, v variables) {
	pods := []string{"a", "b", "c", "d"}
	counts := map[string]*atomic.Int64{}
	for _, name := range pods {
		m := r.machines[name]
		for _, addr := range m.addrs {
			n := &atomic.Int64{}
			counts[fmt.Sprintf("%s, IPv6: %t", name, addr.Is6())] = n
			count(t, m.ns, netip.AddrPortFrom(addr, 7000), n)
		}
	}
	r.apply(t, v, service("web", dual, "ports: [{port: 53, protocol: UDP}]")+slice{ports: "{port: 7000, protocol: UDP}", endpoints: "a b c d"}.yaml())
	const each = 50_000
	begin := time.Now()
	var group sync.WaitGroup
	for _, vip := range []string{v["vip4"], v["vip6"]} {
		to := netip.AddrPortFrom(netip.MustParseAddr(vip), 53)
		group.Go(func() {
			if err := send(r.machines["node1"].ns, to, each); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	sum := func() (n int64) {
		for c := range maps.Values(counts) {
			n += c.Load()
		}
		return n
	}
	within(t, patience, func() error {
		if n := sum(); n < 2*each*999/1000 {
			return fmt.Errorf("%d of %d datagrams arrived", n, 2*each)
		}
		return nil
	})
	// With three degrees of freedom, equal chances give more than 30.7 once in a million times.
	for _, v6 := range []bool{false, true} {
		total, square := 0.0, 0.0
		for _, name := range pods {
			total += float64(counts[fmt.Sprintf("%s, IPv6: %t", name, v6)].Load())
		}
		for _, name := range pods {
			expected := total / float64(len(pods))
			d := float64(counts[fmt.Sprintf("%s, IPv6: %t", name, v6)].Load()) - expected
			square += d * d / expected
		}
		t.Logf("IPv6: %t: %.0f decisions, chi-square %.2f", v6, total, square)
		if square > 30.7 {
			t.Errorf("IPv6: %t: not balanced", v6)
		}
	}
	t.Logf("it took %v", time.Since(begin).Round(time.Millisecond))
	sh(t, r.machines["node1"].ns, "conntrack -F 2>/dev/null")
}

// count counts datagrams.
func count(t *testing.T, ns netns.Namespace, at netip.AddrPort, n *atomic.Int64) {
	t.Helper()
	var conn *net.UDPConn
	must(t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	raw, err := conn.SyscallConn()
	must(t, err)
	const room = 64 << 20 // bytes: for all there are
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) }))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 8)
		for {
			if _, _, err := conn.ReadFromUDPAddrPort(buffer); errors.Is(err, net.ErrClosed) {
				return
			}
			n.Add(1)
		}
	}()
}

// send sends datagrams to one address, each from a port of its own.
func send(ns netns.Namespace, to netip.AddrPort, n int) error {
	const first = 10_000 // port
	family, target := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[:4])})
	bind := func(port int) unix.Sockaddr { return &unix.SockaddrInet4{Port: port} }
	if to.Addr().Is6() {
		family, target = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		bind = func(port int) unix.Sockaddr { return &unix.SockaddrInet6{Port: port} }
	}
	one := func(port int) error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if family == unix.AF_INET6 { // both families use the same ports
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, bind(port)); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte{1}, 0, target)
	}
	return ns.Do(func() error {
		for i := range n {
			if err := one(first + i); err != nil {
				return fmt.Errorf("send from port %d to %v: %w", first+i, to, err)
			}
		}
		return nil
	})
}
