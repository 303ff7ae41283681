//go:build linux

package linux

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
)

func TestFindUplink(t *testing.T) {
	eth0 := kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64")}
	eth1 := kernel.Uplink{Name: "eth1", MTU: 9000, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}
	const mtu = underlay + "\nlink set eth1 mtu 9000\n"
	const both = mtu + `
route add default via 192.0.2.254 metric 200
route add default via 198.51.100.254 metric 100
-6 route add default via 2001:db8::fe metric 100
-6 route add default via 2001:db8:1::fe metric 200`
	eth1By6 := kernel.Uplink{Name: "eth1", MTU: 9000, Addresses: prefixes("2001:db8:1::1/64", "198.51.100.1/24")}
	v4, v6 := UplinkOptions{IPv4: true}, UplinkOptions{IPv6: true}
	for _, tc := range []struct {
		name, setUp string
		opts        UplinkOptions
		want        kernel.Uplink
	}{
		{"by name", both, UplinkOptions{Iface: "eth0", IPv4: true, IPv6: true}, eth0},
		{"by IPv4 address in place of a name", both, UplinkOptions{Iface: "192.0.2.1", IPv4: true}, eth0},
		{"by IPv6 address in place of a name", both, UplinkOptions{Iface: "2001:db8:1:0::1", IPv4: true}, eth1By6},
		{"by pattern of names", both, UplinkOptions{IfaceRegex: regexp.MustCompile(`^eth1$`)}, eth1},
		{"by pattern of addresses", both, UplinkOptions{IfaceRegex: regexp.MustCompile(`^198\.51\.100\.`)}, eth1},
		{"pattern of names goes first", both, UplinkOptions{IfaceRegex: regexp.MustCompile(`eth1|192\.0\.2\.1`)}, eth1},
		{"by public address", both, UplinkOptions{PublicIP: netip.MustParseAddr("192.0.2.1")}, eth0},
		{"by public IPv6 address", both, UplinkOptions{PublicIPv6: netip.MustParseAddr("2001:db8:1::1")}, eth1},
		{"public address of a NAT device", both, UplinkOptions{PublicIP: netip.MustParseAddr("203.0.113.5"), IPv4: true}, eth1},
		{"default route", both, v4, eth1},
		{"IPv6 default route", both, v6, eth0},
		{"dual stack goes by IPv4", both, UplinkOptions{IPv4: true, IPv6: true}, eth1},
		{"only an IPv6 default route", mtu + "-6 route add default via 2001:db8::fe", v4, eth0},
		{"default route in another table", mtu + "route add default via 192.0.2.254 table 100\nroute add default via 198.51.100.254", v4, eth1},
		{"default route with two next hops", mtu + "route add default nexthop via 192.0.2.254 nexthop via 192.0.2.253", v4, eth0},
		{"onlink default route", mtu + "route add default via 203.0.113.1 dev eth1 onlink", v4, eth1},
		{"the best addresses come first", mtu + `
addr add 192.0.2.7/24 dev eth0
addr add 192.0.2.8/32 dev eth0
addr add 169.254.1.1/16 dev eth0 scope link
addr add 2001:db8::7/64 dev eth0 preferred_lft 0 nodad
addr add fe80::7/64 dev eth0 nodad
addr add fd00::8/64 dev eth0 nodad`, UplinkOptions{Iface: "eth0"},
			kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.1/24", "192.0.2.8/32",
				"2001:db8::1/64", "fd00::8/64", "192.0.2.7/24", "2001:db8::7/64")}},
		{"the address that names it comes first", mtu + "addr add 192.0.2.8/32 dev eth0", UplinkOptions{Iface: "192.0.2.8"},
			kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.8/32", "192.0.2.1/24", "2001:db8::1/64")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterNamespace(t)
			setUp(t, tc.setUp)
			got, err := FindUplink(tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, comparable); diff != "" {
				t.Errorf("uplink (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoUplink(t *testing.T) {
	const there = "; there are lo, peer0, eth0 [192.0.2.1/24]"
	for _, tc := range []struct {
		name string
		opts UplinkOptions
		want string
	}{
		{"name", UplinkOptions{Iface: "eth9"}, `find uplink: no interface named "eth9" or with that address` + there},
		{"address", UplinkOptions{Iface: "192.0.2.9"}, `find uplink: no interface named "192.0.2.9" or with that address` + there},
		{"pattern", UplinkOptions{IfaceRegex: regexp.MustCompile("^ens")}, `find uplink: no interface whose name or address matches "^ens"` + there},
		{"default route", UplinkOptions{IPv4: true}, `find uplink: no interface with a default route` + there},
		{"IPv4 address", UplinkOptions{Iface: "peer0", IPv4: true},
			`find uplink: the interface named "peer0" or with that address is peer0, which has no global IPv4 address` + there},
		{"IPv6 address", UplinkOptions{Iface: "eth0", IPv4: true, IPv6: true}, `is eth0, which has no global IPv6 address` + there},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterNamespace(t)
			setUp(t, `
link add eth0 type veth peer name peer0
addr add 192.0.2.1/24 dev eth0
link set eth0 up
link set peer0 up`)
			_, err := FindUplink(tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("have %v\nwant %s", err, tc.want)
			}
		})
	}
}
