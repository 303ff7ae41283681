package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// world is who answers at all addresses that a Service might have outside of the cluster, when no proxy takes them.
const world = "world"

// worldNetworks are those of externalIPs and of load balancers' addresses.
var worldNetworks = []string{"198.51.100.0/24", "203.0.113.0/24", "2001:db8:e::/64", "2001:db8:f::/64"}

// makeWorld starts what answers: at ports 8080 and 9090 of every pod and of every node, and in the world.
func (r *rig) makeWorld(t *testing.T) {
	t.Helper()
	for name, m := range r.machines {
		if outside[name] != "" {
			continue
		}
		for _, addr := range m.addrs {
			for _, port := range []uint16{8080, 9090} {
				serve(t, m.ns, netip.AddrPortFrom(addr, port), answerOf(name, port))
			}
			serveSCTP(t, m.ns, netip.AddrPortFrom(addr, 8080), name)
		}
	}
	for _, network := range worldNetworks {
		sh(t, r.lab.Underlay(), "ip route add local "+network+" dev lo")
	}
	for _, port := range []uint16{80, 81} {
		serveTCP(t, r.lab.Underlay(), netip.AddrPortFrom(netip.IPv6Unspecified(), port), world)
	}
}

// answerOf is what an endpoint calls itself: with its port, when that is not the usual one.
func answerOf(name string, port uint16) string {
	if port != 8080 {
		return fmt.Sprintf("%s:%d", name, port)
	}
	return name
}

// serve answers TCP connections and UDP datagrams with a name and the client's address. A TCP connection goes on as an echo.
func serve(t *testing.T, ns netns.Namespace, at netip.AddrPort, name string) {
	t.Helper()
	serveTCP(t, ns, at, name)
	var conn *net.UDPConn
	must(t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // else an ICMP message about an earlier answer
				_, _ = conn.WriteToUDPAddrPort(greeting(name, from), from) // the client notices
			}
		}
	}()
}

func serveTCP(t *testing.T, ns netns.Namespace, at netip.AddrPort, name string) {
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
			go echo(conn, name)
		}
	}()
}

// echo greets a client, and then sends back what it sends.
func echo(conn *net.TCPConn, name string) {
	defer conn.Close()
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if _, err := conn.Write(greeting(name, from)); err != nil {
		return
	}
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

// greeting is one line.
func greeting(name string, from netip.AddrPort) []byte {
	return fmt.Appendf(nil, "%s %v\n", name, from.Addr().Unmap())
}
