package reconcile

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

func TestLinkDiff(t *testing.T) {
	on, off := true, false
	addr := netip.MustParsePrefix
	vxlan := func(edit func(*kernel.VXLAN)) kernel.Link {
		v := kernel.VXLAN{VNI: 1, Port: 8472, Uplink: "eth0", Local: netip.MustParseAddr("192.0.2.1")}
		edit(&v)
		return kernel.Link{VXLAN: &v}
	}
	asIs := func(*kernel.VXLAN) {}
	tests := []struct {
		name       string
		want, have kernel.Link
		diffs      []string
	}{
		{"mtu and mac left to the kernel", kernel.Link{}, kernel.Link{MTU: 1500, MAC: kernel.MAC{2}}, nil},
		{"mtu", kernel.Link{MTU: 1450}, kernel.Link{MTU: 1500}, []string{"mtu is 1500, want 1450"}},
		{"mac", kernel.Link{MAC: kernel.MAC{2}}, kernel.Link{MAC: kernel.MAC{4}},
			[]string{"mac is 04:00:00:00:00:00, want 02:00:00:00:00:00"}},
		{"down", kernel.Link{Up: true}, kernel.Link{}, []string{"up is false, want true"}},
		{"not marked as ours", kernel.Link{}, kernel.Link{Unmarked: true}, []string{"alias is missing, want twill"}},
		{"addresses in another order", kernel.Link{Addresses: []netip.Prefix{addr("10.0.0.1/24"), addr("fd00::1/64")}},
			kernel.Link{Addresses: []netip.Prefix{addr("fd00::1/64"), addr("10.0.0.1/24")}}, nil},
		{"link-local addresses", kernel.Link{}, kernel.Link{Addresses: []netip.Prefix{addr("fe80::1/64"), addr("169.254.0.1/16")}}, nil},
		{"address too many", kernel.Link{}, kernel.Link{Addresses: []netip.Prefix{addr("10.0.0.1/24")}},
			[]string{"addresses is [10.0.0.1/24], want []"}},
		{"address of another length", kernel.Link{Addresses: []netip.Prefix{addr("10.0.0.1/32")}},
			kernel.Link{Addresses: []netip.Prefix{addr("10.0.0.1/24")}}, []string{"addresses is [10.0.0.1/24], want [10.0.0.1/32]"}},
		{"default port", vxlan(func(v *kernel.VXLAN) { v.Port = 0 }), vxlan(asIs), nil},
		{"no local address", vxlan(func(v *kernel.VXLAN) { v.Local = netip.Addr{} }),
			vxlan(func(v *kernel.VXLAN) { v.Local = netip.IPv4Unspecified() }), nil},
		{"vni", vxlan(asIs), vxlan(func(v *kernel.VXLAN) { v.VNI = 2 }), []string{
			"vxlan is {VNI:2 Port:8472 Uplink:eth0 Local:192.0.2.1 GBP:false Learning:false}, " +
				"want {VNI:1 Port:8472 Uplink:eth0 Local:192.0.2.1 GBP:false Learning:false}"}},
		{"not a vxlan device", vxlan(asIs), kernel.Link{}, []string{
			"vxlan is none, want {VNI:1 Port:8472 Uplink:eth0 Local:192.0.2.1 GBP:false Learning:false}"}},
		{"hairpin", kernel.Link{Bridge: &kernel.Bridge{Hairpin: true}}, kernel.Link{Bridge: &kernel.Bridge{}},
			[]string{"bridge is {PortAliasPrefix: Hairpin:false}, want {PortAliasPrefix: Hairpin:true}"}},
		{"offload left alone", kernel.Link{}, kernel.Link{TxChecksumOffload: &on}, nil},
		{"offload", kernel.Link{TxChecksumOffload: &off}, kernel.Link{TxChecksumOffload: &on},
			[]string{"tx checksum offload is true, want false"}},
		{"sysctl", kernel.Link{Sysctls: map[string]string{"ipv6/accept_ra": "0"}},
			kernel.Link{Sysctls: map[string]string{"ipv6/accept_ra": "1", "ipv4/rp_filter": "2"}},
			[]string{"sysctl ipv6/accept_ra is 1, want 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.diffs, linkDiff(tt.want, tt.have)); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

// What a dump does not tell differs until it was applied once.
func TestFillUnknown(t *testing.T) {
	off := false
	want := kernel.Link{TxChecksumOffload: &off, Sysctls: map[string]string{"ipv6/accept_ra": "0"}}
	silent := kernel.Link{}
	if diffs := linkDiff(want, fillUnknown(want, silent, kernel.Link{})); len(diffs) != 2 {
		t.Errorf("before it was applied: %q", diffs)
	}
	if diffs := linkDiff(want, fillUnknown(want, silent, want)); len(diffs) != 0 {
		t.Errorf("after it was applied: %q", diffs)
	}
	if silent.Sysctls != nil {
		t.Error("the dump was changed")
	}
}

func TestStaleLinksAreOurs(t *testing.T) {
	l := links{
		desired: map[string]kernel.Link{"flannel.1": {}},
		actual:  map[string]kernel.Link{"flannel.1": {}, "flannel.2": {}, "eth0": {Unmarked: true}},
	}
	if diff := cmp.Diff([]string{"flannel.2"}, l.stale()); diff != "" {
		t.Errorf("stale links (-want +got):\n%s", diff)
	}
}
