package store

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func pool(network string, subnetLen int, min, max string) Pool {
	return Pool{netip.MustParsePrefix(network), subnetLen, netip.MustParseAddr(min), netip.MustParseAddr(max)}
}

func TestParseNetwork(t *testing.T) {
	vxlan := []byte(`{"Type":"vxlan"}`)
	tests := []struct {
		name, doc string
		want      Network
	}{
		{"defaults", `{"Network":"10.244.0.0/16"}`, Network{
			EnableIPv4: true, IPv4: pool("10.244.0.0/16", 24, "10.244.1.0", "10.244.255.0"), BackendType: "udp"}},
		{"small networks are divided by four", `{"Network":"10.5.0.0/23","Backend":{"Type":"vxlan"}}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"), BackendType: "vxlan", BackendConfig: vxlan}},
		{"the smallest network", `{"Network":"10.5.0.0/28","Backend":{"Type":"vxlan"}}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"), BackendType: "vxlan", BackendConfig: vxlan}},
		{"host bits are cut off", `{"Network":"10.5.7.9/16"}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), BackendType: "udp"}},
		{"all of IPv4 but the type's case", `{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0",
			"Backend":{"Type":"VXLAN","Port":7890}}`, Network{
			EnableIPv4: true, IPv4: pool("10.0.0.0/8", 20, "10.10.0.0", "10.99.0.0"),
			BackendType: "vxlan", BackendConfig: []byte(`{"Type":"VXLAN","Port":7890}`)}},
		{"zero means default", `{"Network":"10.5.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0","SubnetMax":null}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), BackendType: "udp"}},
		{"the network's own subnet may be given", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0"}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/16", 24, "10.5.0.0", "10.5.255.0"), BackendType: "udp"}},
		{"the end of the address space", `{"Network":"255.255.0.0/16"}`, Network{
			EnableIPv4: true, IPv4: pool("255.255.0.0/16", 24, "255.255.1.0", "255.255.255.0"), BackendType: "udp"}},
		{"IPv6 alone", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`, Network{
			EnableIPv6: true, IPv6: pool("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::"), BackendType: "udp"}},
		{"the end of IPv6", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ffff:ffff:ffff::/48"}`, Network{
			EnableIPv6: true, IPv6: pool("ffff:ffff:ffff::/48", 64, "ffff:ffff:ffff:1::", "ffff:ffff:ffff:ffff::"), BackendType: "udp"}},
		{"dual stack", `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/120","IPv6SubnetMin":"fd00::40"}`, Network{
			EnableIPv4: true, IPv4: pool("10.244.0.0/16", 24, "10.244.1.0", "10.244.255.0"),
			EnableIPv6: true, IPv6: pool("fd00::/120", 122, "fd00::40", "fd00::c0"), BackendType: "udp"}},
		{"unknown keys", `{"network":"10.5.0.0/16","EnableNFTables":true,"Netwrk":1,"ADD":[]}`, Network{
			EnableIPv4: true, IPv4: pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), BackendType: "udp", Unknown: []string{"ADD", "Netwrk"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := ParseNetwork([]byte(test.doc))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, have, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseNetworkErrors(t *testing.T) {
	v6 := func(rest string) string { return `{"EnableIPv4":false,"EnableIPv6":true,` + rest + `}` }
	tests := []struct{ name, doc, want string }{
		{"empty", ``, "not a JSON object"},
		{"no object", `[1]`, "not a JSON object"},
		{"more than one", `{} {}`, "not a JSON object"},
		{"too long", `{"x":"` + strings.Repeat("x", MaxNetworkSize) + `"}`, "are allowed"},
		{"no network", `{}`, "Network is missing"},
		{"no IPv6 network", `{"Network":"10.5.0.0/16","EnableIPv6":true}`, "IPv6Network is missing"},
		{"no family", `{"EnableIPv4":false}`, "neither EnableIPv4 nor EnableIPv6"},
		{"bool", `{"EnableIPv4":"yes"}`, `EnableIPv4: "yes"`},
		{"ignored, but wrong", `{"EnableNFTables":7,"Network":"10.5.0.0/16"}`, "EnableNFTables"},
		{"network is no prefix", `{"Network":"10.5.0.0"}`, `Network: "10.5.0.0"`},
		{"network of the other family", `{"Network":"fd00::/48"}`, "not an IPv4 network"},
		{"IPv6 network of the other family", v6(`"IPv6Network":"10.5.0.0/16"`), "IPv6Network"},
		{"mapped network", v6(`"IPv6Network":"::ffff:10.0.0.0/104"`), "IPv6Network"},
		{"everything", `{"Network":"0.0.0.0/0"}`, "Network: 0.0.0.0/0"},
		{"network too small", `{"Network":"10.5.0.0/29"}`, "a /28 is the least"},
		{"IPv6 network too small", v6(`"IPv6Network":"fd00::/125"`), "a /124 is the least"},
		{"subnet length is text", `{"Network":"10.5.0.0/16","SubnetLen":"24"}`, "SubnetLen"},
		{"subnet length is negative", `{"Network":"10.5.0.0/16","SubnetLen":-1}`, "SubnetLen"},
		{"subnet length is huge", `{"Network":"10.5.0.0/16","SubnetLen":18446744073709551615}`, "SubnetLen"},
		{"subnets too small", `{"Network":"10.5.0.0/16","SubnetLen":31}`, "SubnetLen: 31 is more than 30"},
		{"subnets too large", `{"Network":"10.5.0.0/16","SubnetLen":17}`, "SubnetLen: 17 leaves fewer than four"},
		{"IPv6 subnets too small", v6(`"IPv6Network":"fd00::/48","IPv6SubnetLen":127`), "IPv6SubnetLen: 127"},
		{"min is no address", `{"Network":"10.5.0.0/16","SubnetMin":"x"}`, `SubnetMin: "x"`},
		{"min outside", `{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`, "SubnetMin: 10.6.0.0 is not in"},
		{"max outside", `{"Network":"10.5.0.0/16","SubnetMax":"10.4.0.0"}`, "SubnetMax: 10.4.0.0 is not in"},
		{"min not aligned", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.1"}`, "SubnetMin: 10.5.1.1"},
		{"max not aligned", v6(`"IPv6Network":"fd00::/48","IPv6SubnetMax":"fd00:0:0:1::1"`), "IPv6SubnetMax: fd00:0:0:1::1"},
		{"min above max", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`, "SubnetMin 10.5.9.0 is above SubnetMax 10.5.8.0"},
		{"backend is text", `{"Network":"10.5.0.0/16","Backend":"vxlan"}`, "Backend"},
		{"backend without type", `{"Network":"10.5.0.0/16","Backend":{"VNI":1}}`, "Backend.Type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, err := ParseNetwork([]byte(test.doc))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("have error %v, want one with %q", err, test.want)
			}
			if diff := cmp.Diff(Network{}, n, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("an error came with a value: %s", diff)
			}
		})
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte(`{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","Backend":{"Type":"vxlan"}}`))
	f.Add([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48","IPv6SubnetLen":64,"IPv6SubnetMax":"fd00:0:0:9::"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		n, err := ParseNetwork(doc)
		if err != nil {
			return
		}
		for _, enabled := range []struct {
			on   bool
			pool Pool
		}{{n.EnableIPv4, n.IPv4}, {n.EnableIPv6, n.IPv6}} {
			if !enabled.on {
				continue
			}
			p := enabled.pool
			for _, base := range []netip.Addr{p.Min, p.Max} {
				if s := netip.PrefixFrom(base, p.SubnetLen); !p.Contains(s) {
					t.Errorf("%+v does not contain its bound %s", p, s)
				}
			}
		}
		s, err := n.Choose(nil, nil, func(n uint64) uint64 { return n - 1 })
		if err != nil || !n.Fits(s) {
			t.Errorf("an empty network %+v yields %v, %v", n, s, err)
		}
		if back, err := ParseKey(s.Key()); err != nil || back != s {
			t.Errorf("key %q of %v reads as %v, %v", s.Key(), s, back, err)
		}
	})
}
