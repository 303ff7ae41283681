package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
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
	harness.ServeUDP(t, ns, at, func(_ []byte, from netip.AddrPort) []byte { return greeting(name, from) })
}

// serveTCP greets clients, and then sends back what they send.
func serveTCP(t *testing.T, ns netns.Namespace, at netip.AddrPort, name string) {
	t.Helper()
	harness.ServeTCP(t, ns, at, func(conn *net.TCPConn) {
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if _, err := conn.Write(greeting(name, from)); err == nil {
			harness.Echo(conn)
		}
	})
}

// greeting is one line.
func greeting(name string, from netip.AddrPort) []byte {
	return fmt.Appendf(nil, "%s %v\n", name, from.Addr().Unmap())
}
