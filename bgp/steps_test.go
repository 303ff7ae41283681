package bgp

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// BenchmarkSteps is what 10,000 routes cost that are learned in ten steps.
func BenchmarkSteps(b *testing.B) {
	learned := make([]*Route, 10_000)
	for i := range learned {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)
		learned[i] = &Route{Prefix: prefix, NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}
	}
	s := side{
		uplink: kernel.Uplink{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
		self:   &store.Lease{Subnet: netip.MustParsePrefix("10.0.0.0/24")},
	}
	b.ReportAllocs()
	for b.Loop() {
		var r renderer
		for n := len(learned) / 10; n <= len(learned); n += len(learned) / 10 {
			r.fragments(s, learned[:n])
		}
	}
}
