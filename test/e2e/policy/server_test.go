package policy

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/test/e2e/harness"
)

// serve answers at ports 80 and 81 of TCP, UDP and SCTP of all addresses: it sends back what comes.
func (p *prober) serve(t testing.TB, addrs []netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		for _, port := range []uint16{80, 81} {
			harness.ServeTCP(t, p.ns, netip.AddrPortFrom(addr, port), harness.Echo)
			harness.ServeUDP(t, p.ns, netip.AddrPortFrom(addr, port), func(datagram []byte, _ netip.AddrPort) []byte { return datagram })
			p.sctp[addr.Is6()].serve(port)
		}
	}
}
