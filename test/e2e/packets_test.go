package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// mirror answers each UDP packet that comes to addr in the namespace with the address that it came from, as text, filled up with blanks
// to the size of the question. It ends with the test.
func mirror(t *testing.T, ns netns.Namespace, addr netip.Addr) netip.AddrPort {
	t.Helper()
	conn := listen(t, ns, addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error for an earlier answer
			}
			answer := []byte(from.String())
			answer = append(answer, strings.Repeat(" ", max(0, n-len(answer)))...)
			_, _ = conn.WriteToUDPAddrPort(answer, from) // whoever waits for it will notice
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return netip.AddrPortFrom(addr, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

func listen(t *testing.T, ns netns.Namespace, addr netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	must(t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}))
	must(t, dontFragment(conn, addr.Is6()))
	return conn
}

// ask sends a mirror one packet of size bytes of payload, which must not be fragmented on the way, and returns the source that it had
// when it arrived.
func ask(ctx context.Context, from netns.Namespace, to netip.AddrPort, size int) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	dialed, err := from.Dial(ctx, "udp", to.String())
	if err != nil {
		return netip.Addr{}, err
	}
	conn := dialed.(*net.UDPConn)
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := errors.Join(conn.SetDeadline(deadline), dontFragment(conn, to.Addr().Is6())); err != nil {
		return netip.Addr{}, err
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return netip.Addr{}, err
	}
	answer := make([]byte, 65536)
	n, err := conn.Read(answer)
	if err != nil {
		return netip.Addr{}, err
	}
	if size > 0 && n < size {
		return netip.Addr{}, fmt.Errorf("the answer has %d bytes, want %d", n, size)
	}
	source, err := netip.ParseAddrPort(strings.TrimSpace(string(answer[:n])))
	return source.Addr().Unmap(), err
}

// dontFragment forbids fragmentation on the way and at the source: a packet that is too large fails with EMSGSIZE.
func dontFragment(conn *net.UDPConn, v6 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if v6 {
			failed = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
			return
		}
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	return errors.Join(err, failed)
}
