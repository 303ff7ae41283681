package policy

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// serve answers at ports 80 and 81 of TCP, UDP and SCTP of all addresses.
func (p *prober) serve(t testing.TB, addrs []netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		for _, port := range []uint16{80, 81} {
			serveTCP(t, p.ns, netip.AddrPortFrom(addr, port))
			serveUDP(t, p.ns, netip.AddrPortFrom(addr, port))
			p.sctp[addr.Is6()].serve(port)
		}
	}
}

// serveUDP sends datagrams back.
func serveUDP(t testing.TB, ns netns.Namespace, at netip.AddrPort) {
	t.Helper()
	var conn *net.UDPConn
	must(t, ns.Do(func() (err error) {
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
				_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // the client notices
			}
		}
	}()
}

// serveTCP sends back what comes.
func serveTCP(t testing.TB, ns netns.Namespace, at netip.AddrPort) {
	t.Helper()
	var listener *net.TCPListener
	must(t, ns.Do(func() (err error) {
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
			go echo(conn)
		}
	}()
}

func echo(conn *net.TCPConn) {
	defer conn.Close()
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
