package overlay

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

var equateNetip = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var equatePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func network(t *testing.T, config string) store.Network {
	t.Helper()
	n, err := store.ParseNetwork([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	ipv4Only = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`
	ipv6Only = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}`
	dual     = `{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}`
)

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func eth0() kernel.Uplink {
	return kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64")}
}

func backend(t *testing.T, config string, change func(*Options)) *Backend {
	t.Helper()
	opts := Options{Config: Config{VNI: 1}, Network: network(t, config), NodeName: "a"}
	if change != nil {
		change(&opts)
	}
	b, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func self() *store.Lease {
	return &store.Lease{Subnet: netip.MustParsePrefix("10.5.1.0/24"), IPv6Subnet: netip.MustParsePrefix("fd00:5:0:1::/64"),
		PublicIP: netip.MustParseAddr("192.0.2.1"), PublicIPv6: netip.MustParseAddr("2001:db8::1"), BackendType: "vxlan"}
}

func TestAttributesAreFlannels(t *testing.T) {
	mac := kernel.MAC{2, 0, 0, 0, 0, 9}
	b := backend(t, dual, func(o *Options) {
		o.Config.VNI = 3
		o.MACs = map[string]kernel.MAC{"flannel.3": mac, "flannel-v6.3": mac}
	})
	got, err := b.Attributes(eth0())
	if err != nil {
		t.Fatal(err)
	}
	want := store.Attributes{
		NodeName: "a", BackendType: "vxlan",
		PublicIP: netip.MustParseAddr("192.0.2.1"), PublicIPv6: netip.MustParseAddr("2001:db8::1"),
		BackendData:   []byte(`{"VNI":3,"VtepMAC":"02:00:00:00:00:09"}`),
		BackendV6Data: []byte(`{"VNI":3,"VtepMAC":"02:00:00:00:00:09"}`),
	}
	if diff := cmp.Diff(want, got, equateNetip); diff != "" {
		t.Error(diff)
	}
}

func macs(t *testing.T, b *Backend, uplink kernel.Uplink) map[string]kernel.MAC {
	t.Helper()
	links, err := b.Links(uplink, self())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]kernel.MAC{}
	for _, l := range links {
		if !l.MAC.IsUnicast() {
			t.Errorf("%s has %s, which is no unicast address", l.Name, l.MAC)
		}
		byName[l.Name] = l.MAC
	}
	return byName
}

func TestMACIsStableAndDiffersByNodeAndFamily(t *testing.T) {
	of := func(node, config string, change func(*Options, *kernel.Uplink)) map[string]kernel.MAC {
		uplink := eth0()
		return macs(t, backend(t, config, func(o *Options) {
			o.NodeName = node
			if change != nil {
				change(o, &uplink)
			}
		}), uplink)
	}
	first := of("a", dual, nil)
	if first["flannel.1"] == first["flannel-v6.1"] {
		t.Errorf("both families have %s", first["flannel.1"])
	}
	same := map[string]map[string]kernel.MAC{
		"after a reboot":  of("a", dual, nil),
		"with one family": of("a", ipv4Only, nil),
		"with one address more": of("a", dual, func(_ *Options, u *kernel.Uplink) {
			u.Addresses = append(u.Addresses, prefixes("192.0.2.77/24", "2001:db8::77/64")...)
		}),
		"with its address given": of("a", dual, func(o *Options, _ *kernel.Uplink) { o.PublicIP = netip.MustParseAddr("192.0.2.1") }),
	}
	for when, other := range same {
		if other["flannel.1"] != first["flannel.1"] || other["flannel-v6.1"] != first["flannel-v6.1"] && len(other) == 2 {
			t.Errorf("%s the node has %v, before %v", when, other, first)
		}
	}
	differ := map[string]map[string]kernel.MAC{
		"another node":              of("b", dual, nil),
		"a node with the same name": of("a", dual, func(_ *Options, u *kernel.Uplink) { u.Addresses = prefixes("192.0.2.2/24", "2001:db8::2/64") }),
		"a node with the same name behind NAT": of("a", dual, func(o *Options, _ *kernel.Uplink) {
			o.PublicIP, o.PublicIPv6 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:100::2")
		}),
	}
	for what, other := range differ {
		for link := range first {
			if other[link] == first[link] {
				t.Errorf("%s has the same %s on %s", what, first[link], link)
			}
		}
	}
}

// What peers know a node by does not change while it runs, wherever it moves.
func TestMACStaysWhenTheAddressChanges(t *testing.T) {
	b := backend(t, dual, nil)
	without := kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.9/24")}
	if _, err := b.Attributes(without); err == nil {
		t.Error("an uplink without IPv6 was accepted")
	}
	before := macs(t, b, eth0())
	moved := kernel.Uplink{Name: "eth1", MTU: 1500, Addresses: prefixes("192.0.2.200/24", "2001:db8::200/64")}
	if diff := cmp.Diff(before, macs(t, b, moved)); diff != "" {
		t.Error(diff)
	}
	attrs, err := b.Attributes(moved)
	if err != nil || !strings.Contains(string(attrs.BackendData), before["flannel.1"].String()) {
		t.Errorf("published: %s, %v; want %s", attrs.BackendData, err, before["flannel.1"])
	}
}

func TestLinks(t *testing.T) {
	mac := kernel.MAC{2, 0, 0, 0, 0, 9}
	off := false
	b := backend(t, dual, func(o *Options) {
		o.Config = Config{VNI: 5, Port: 4789, GBP: true, Learning: true}
		o.MACs = map[string]kernel.MAC{"flannel.5": mac, "flannel-v6.5": mac}
		o.TxChecksumOffload = &off
	})
	got, err := b.Links(eth0(), self())
	if err != nil {
		t.Fatal(err)
	}
	link := func(name string, mtu int, address, local string) kernel.Link {
		return kernel.Link{
			Name: name, MTU: mtu, MAC: mac, Up: true, Addresses: prefixes(address),
			VXLAN: &kernel.VXLAN{VNI: 5, Port: 4789, Uplink: "eth0", Local: netip.MustParseAddr(local), GBP: true, Learning: true},

			TxChecksumOffload: &off, Sysctls: map[string]string{"ipv6/accept_ra": "0"},
		}
	}
	want := []kernel.Link{
		link("flannel.5", 1450, "10.5.1.0/32", "192.0.2.1"),
		link("flannel-v6.5", 1430, "fd00:5:0:1::/128", "2001:db8::1"),
	}
	if diff := cmp.Diff(want, got, equateNetip, equatePrefix); diff != "" {
		t.Error(diff)
	}
}

func TestMTU(t *testing.T) {
	tests := []struct {
		name        string
		config      string
		configured  int
		uplink      int
		want        int
		wantErrPart string
	}{
		{"IPv4 takes 50 bytes", ipv4Only, 0, 1500, 1450, ""},
		{"IPv6 takes 70 bytes", ipv6Only, 0, 1500, 1430, ""},
		{"dual stack has the smaller", dual, 0, 1500, 1430, ""},
		{"jumbo frames", ipv4Only, 0, 9000, 8950, ""},
		{"configured below the uplink's", ipv4Only, 1400, 1500, 1350, ""},
		{"configured above the uplink's", ipv4Only, 9000, 1500, 0, "Backend.MTU 9000 is more than the 1500 of uplink eth0"},
		{"too small for IPv6", ipv6Only, 0, 1300, 0, "leaves 1230 bytes inside the VXLAN; IPv6 needs 1280"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := backend(t, tt.config, func(o *Options) { o.Config.MTU = tt.configured })
			uplink := eth0()
			uplink.MTU = tt.uplink
			got, err := b.PodMTU(uplink)
			if tt.wantErrPart != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErrPart) {
					t.Fatalf("error %v, want %q", err, tt.wantErrPart)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("MTU %d, error %v, want %d", got, err, tt.want)
			}
		})
	}
}

func TestPublicAddressBehindNAT(t *testing.T) {
	public := netip.MustParseAddr("198.51.100.7")
	b := backend(t, ipv4Only, func(o *Options) { o.PublicIP = public })
	attrs, err := b.Attributes(eth0())
	if err != nil {
		t.Fatal(err)
	}
	links, err := b.Links(eth0(), self())
	if err != nil {
		t.Fatal(err)
	}
	if attrs.PublicIP != public || links[0].VXLAN.Local != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("public %s, local %s: want the public address published and the uplink's used", attrs.PublicIP, links[0].VXLAN.Local)
	}
}

func TestSecondAddressOfTheUplink(t *testing.T) {
	second := netip.MustParseAddr("192.0.2.77")
	b := backend(t, ipv4Only, func(o *Options) { o.PublicIP = second })
	uplink := eth0()
	uplink.Addresses = append(uplink.Addresses, netip.PrefixFrom(second, 24))
	links, err := b.Links(uplink, self())
	if err != nil || links[0].VXLAN.Local != second {
		t.Errorf("links %+v, error %v: want local %s", links, err, second)
	}
}

func TestUplinkWithoutAddress(t *testing.T) {
	b := backend(t, dual, nil)
	uplink := eth0()
	uplink.Addresses = prefixes("192.0.2.1/24")
	_, err := b.Attributes(uplink)
	const want = "uplink eth0 has no IPv6 address, but the network has IPv6 enabled"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestDeviceNameTooLong(t *testing.T) {
	_, err := New(Options{Config: Config{VNI: 10_000}, Network: network(t, dual), NodeName: "a"})
	if err == nil || !strings.Contains(err.Error(), "flannel-v6.10000") {
		t.Errorf("error %v, want one that names flannel-v6.10000", err)
	}
}
