package harness

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// ServeTCP listens inside a namespace until the test ends, and has answer serve each connection in a goroutine of its own; then it is closed.
func ServeTCP(t testing.TB, ns netns.Namespace, at netip.AddrPort, answer func(*net.TCPConn)) {
	t.Helper()
	var listener *net.TCPListener
	Must(t, ns.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return // closed
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
}

// ServeUDP sends back, inside a namespace and until the test ends, what answer makes of each datagram of up to 64 bytes.
func ServeUDP(t testing.TB, ns netns.Namespace, at netip.AddrPort, answer func(datagram []byte, from netip.AddrPort) []byte) {
	t.Helper()
	var conn *net.UDPConn
	Must(t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // else an ICMP message about an earlier answer
				_, _ = conn.WriteToUDPAddrPort(answer(buffer[:n], from), from) // the client notices
			}
		}
	}()
}

// Echo sends back what comes, until the client or the connection ends.
func Echo(conn *net.TCPConn) {
	buffer := make([]byte, 64)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}
