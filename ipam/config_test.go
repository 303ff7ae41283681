package ipam

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var cmpAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func rng(subnet, first, last, gateway string) Range {
	r := Range{Subnet: netip.MustParsePrefix(subnet), First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
	}
	return r
}

func TestParseConfig(t *testing.T) {
	table, scope := 100, 253
	base := Config{Type: "twill-ipam", DataDir: DefaultDataDir, Quarantine: DefaultQuarantine}
	with := func(change func(*Config)) Config {
		c := base
		change(&c)
		return c
	}
	tests := []struct {
		name, netconf string
		want          Config
	}{
		{
			"dual stack", `{"ipam":{"type":"twill-ipam","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1::/64"}]]}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{
					{rng("10.1.2.0/24", "10.1.2.1", "10.1.2.254", "10.1.2.1")},
					{rng("fd00:1::/64", "fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff", "fd00:1::1")},
				}
			}),
		},
		{
			"old single form comes before ranges",
			`{"ipam":{"type":"twill-ipam","subnet":"10.1.0.0/24","rangeStart":"10.1.0.10","rangeEnd":"10.1.0.20","gateway":"10.1.0.254",
			  "ranges":[[{"subnet":"10.2.0.0/24"}]]}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{
					{rng("10.1.0.0/24", "10.1.0.10", "10.1.0.20", "10.1.0.254")},
					{rng("10.2.0.0/24", "10.2.0.1", "10.2.0.254", "10.2.0.1")},
				}
			}),
		},
		{
			"ranges of the runtime come first, with requested addresses from both places",
			`{"ipam":{"type":"twill-ipam","subnet":"10.1.0.0/24"},
			  "runtimeConfig":{"ipRanges":[[{"subnet":"10.9.0.0/24"}]],"ips":["10.1.0.7/24"]},"args":{"cni":{"ips":["10.9.0.8"]}}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{
					{rng("10.9.0.0/24", "10.9.0.1", "10.9.0.254", "10.9.0.1")},
					{rng("10.1.0.0/24", "10.1.0.1", "10.1.0.254", "10.1.0.1")},
				}
				c.IPs = []netip.Addr{netip.MustParseAddr("10.9.0.8"), netip.MustParseAddr("10.1.0.7")}
			}),
		},
		{
			"several ranges in one set, two of one subnet",
			`{"ipam":{"type":"twill-ipam","ranges":[[{"subnet":"10.1.0.0/24","rangeEnd":"10.1.0.9"},{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.20"}]]}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{{
					rng("10.1.0.0/24", "10.1.0.1", "10.1.0.9", "10.1.0.1"), rng("10.1.0.0/24", "10.1.0.20", "10.1.0.254", "10.1.0.1"),
				}}
			}),
		},
		{
			"settings",
			`{"ipam":{"type":"twill-ipam","subnet":"10.1.0.0/24","dataDir":"/var/lib/x/","resolvConf":"/etc/resolv.conf","hostLocalDir":"/var/lib/y/","quarantine":0,
			  "routes":[{"dst":"0.0.0.0/0"},{"dst":"fd00::/8","gw":"fd00::1","mtu":1400,"advmss":1360,"priority":5,"table":100,"scope":253}]}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{{rng("10.1.0.0/24", "10.1.0.1", "10.1.0.254", "10.1.0.1")}}
				c.DataDir, c.ResolvConf, c.HostLocal, c.Quarantine = "/var/lib/x", "/etc/resolv.conf", "/var/lib/y", 0
				c.Routes = []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0")}, {
					Dst: netip.MustParsePrefix("fd00::/8"), GW: netip.MustParseAddr("fd00::1"), MTU: 1400, AdvMSS: 1360,
					Priority: 5, Table: &table, Scope: &scope,
				}}
			}),
		},
		{
			"point to point", `{"ipam":{"type":"twill-ipam","quarantine":60,"ranges":[[{"subnet":"10.0.0.2/31"}],[{"subnet":"fd00::2/127"}]]}}`,
			with(func(c *Config) {
				c.Quarantine = time.Minute
				c.Sets = []RangeSet{
					{rng("10.0.0.2/31", "10.0.0.2", "10.0.0.3", "10.0.0.2")}, {rng("fd00::2/127", "fd00::2", "fd00::3", "fd00::2")},
				}
			}),
		},
		{
			"single addresses have no gateway", `{"ipam":{"type":"twill-ipam","ranges":[[{"subnet":"10.0.0.2/32"}],[{"subnet":"fd00::2/128"}]]}}`,
			with(func(c *Config) {
				c.Sets = []RangeSet{{rng("10.0.0.2/32", "10.0.0.2", "10.0.0.2", "")}, {rng("fd00::2/128", "fd00::2", "fd00::2", "")}}
			}),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(tt.netconf))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpAddrs); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	tests := []struct{ name, netconf, want string }{
		{"not JSON", `{`, "network configuration: unexpected end"},
		{"no ipam", `{"name":"n"}`, `key "ipam" is missing`},
		{"null ipam", `{"ipam":null}`, `key "ipam" is missing`},
		{"no ranges", `{"ipam":{"type":"twill-ipam"}}`, "ipam.ranges: no range"},
		{"unknown key", `{"ipam":{"subnt":"10.0.0.0/24"}}`, `unknown field "subnt"`},
		{"unknown key in a range", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24","start":"10.0.0.1"}]]}}`, `unknown field "start"`},
		{"unknown key in a runtime range", `{"ipam":{},"runtimeConfig":{"ipRanges":[[{"sub":"10.0.0.0/24"}]]}}`, `runtimeConfig.ipRanges[0]: json: unknown field "sub"`},
		{"ranges not nested", `{"ipam":{"ranges":[{"subnet":"10.0.0.0/24"}]}}`, "ranges"},
		{"empty set", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[]]}}`, "ipam.ranges[1]: the range set is empty"},
		{"no subnet", `{"ipam":{"ranges":[[{"rangeStart":"10.0.0.1"}]]}}`, "ipam.ranges[0][0].subnet: is missing"},
		{"old form without subnet", `{"ipam":{"rangeStart":"10.0.0.1"}}`, "ipam.subnet: is missing"},
		{"bad subnet", `{"ipam":{"subnet":"10.0.0.0"}}`, `ipam.subnet: "10.0.0.0" is not a network`},
		{"host bits", `{"ipam":{"subnet":"10.0.0.1/24"}}`, "ipam.subnet: \"10.0.0.1/24\" has host bits set; the network is 10.0.0.0/24"},
		{"mapped subnet", `{"ipam":{"subnet":"::ffff:10.0.0.0/120"}}`, "ipam.subnet"},
		{"start outside", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.1.1"}]]}}`, "ipam.ranges[0][0].rangeStart: 10.0.1.1 is not in subnet 10.0.0.0/24"},
		{"end of the other family", `{"ipam":{"subnet":"10.0.0.0/24","rangeEnd":"fd00::1"}}`, "ipam.rangeEnd: fd00::1 is not in subnet"},
		{"start not an address", `{"ipam":{"subnet":"10.0.0.0/24","rangeStart":"x"}}`, `ipam.rangeStart: "x" is not an IP address`},
		{"start is the network", `{"ipam":{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.0"}}`, "ipam.rangeStart: 10.0.0.0 is the network or broadcast address"},
		{"end is the broadcast", `{"ipam":{"subnet":"10.0.0.0/24","rangeEnd":"10.0.0.255"}}`, "ipam.rangeEnd: 10.0.0.255 is the network or broadcast"},
		{"gateway is the broadcast", `{"ipam":{"subnet":"10.0.0.0/24","gateway":"10.0.0.255"}}`, "ipam.gateway: 10.0.0.255"},
		{"gateway outside", `{"ipam":{"subnet":"10.0.0.0/24","gateway":"10.0.1.1"}}`, "ipam.gateway: 10.0.1.1 is not in subnet"},
		{"end before start", `{"ipam":{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"}}`, "ipam.rangeEnd: 10.0.0.8 comes before"},
		{"only the gateway", `{"ipam":{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.1","rangeEnd":"10.0.0.1"}}`, "ipam.subnet: 10.0.0.0/24 leaves no address"},
		{"families mixed in a set", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]]}}`, "ipam.ranges[0][1].subnet: fd00::/64 is not of the family"},
		{"overlap in a set", `{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.0.0/25"}]]}}`, "ipam.ranges[0][1]: 10.0.0.1-10.0.0.126 overlaps ipam.ranges[0][0]"},
		{"overlap between sets", `{"ipam":{"subnet":"10.0.0.0/25","ranges":[[{"subnet":"10.0.0.0/24"}]]}}`, "ipam.ranges[0][0]: 10.0.0.1-10.0.0.254 overlaps ipam: 10.0.0.1-10.0.0.126"},
		{"relative directory of host-local", `{"ipam":{"subnet":"10.0.0.0/24","hostLocalDir":"x"}}`, "ipam.hostLocalDir"},
		{"relative data directory", `{"ipam":{"subnet":"10.0.0.0/24","dataDir":"x"}}`, "ipam.dataDir"},
		{"negative quarantine", `{"ipam":{"subnet":"10.0.0.0/24","quarantine":-1}}`, "ipam.quarantine"},
		{"quarantine of two days", `{"ipam":{"subnet":"10.0.0.0/24","quarantine":172800}}`, "ipam.quarantine"},
		{"quarantine not a number", `{"ipam":{"subnet":"10.0.0.0/24","quarantine":"30s"}}`, "quarantine"},
		{"route without destination", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"gw":"10.0.0.1"}]}}`, "ipam.routes[0].dst"},
		{"route of two families", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.0/8","gw":"fd00::1"}]}}`, "ipam.routes[0].gw"},
		{"route with a scope that a byte cannot hold", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.0/8","scope":256}]}}`, "ipam.routes[0].scope: 256 is not between 0 and 255"},
		{"route with a negative table", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.0/8","table":-1}]}}`, "ipam.routes[0].table"},
		{"route with a table of 33 bits", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.0/8","table":4294967550}]}}`, "ipam.routes[0].table"},
		{"route with a negative mtu", `{"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"10.0.0.0/8","mtu":-1}]}}`, "ipam.routes[0].mtu"},
		{"bad requested address", `{"ipam":{"subnet":"10.0.0.0/24"},"runtimeConfig":{"ips":["10.0.0.7","x"]}}`, "runtimeConfig.ips[1]"},
		{"bad requested address in args", `{"ipam":{"subnet":"10.0.0.0/24"},"args":{"cni":{"ips":["10.0.0.7/99"]}}}`, "args.cni.ips[0]"},
		{"zone in an address", `{"ipam":{"subnet":"10.0.0.0/24"},"args":{"cni":{"ips":["fe80::1%eth0"]}}}`, "args.cni.ips[0]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig([]byte(tt.netconf))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// A lease ends whatever is wrong with the rest of the configuration.
func TestParseForRelease(t *testing.T) {
	for netconf, want := range map[string]string{
		`{"ipam":{"type":"twill-ipam","dataDir":"/x/","ranges":7,"unknown":1},"runtimeConfig":{"ips":["?"]},"args":7}`: "/x",
		`{"ipam":{}}`:                 DefaultDataDir,
		`{"ipam":{"dataDir":"x"}}`:    "",
		`{"ipam":{"dataDir":["/x"]}}`: "",
		`{`:                           "",
	} {
		got, err := ParseForRelease([]byte(netconf))
		if err == nil && got.DataDir != want || err != nil && want != "" {
			t.Errorf("%s: data directory %q, error %v; want %q", netconf, got.DataDir, err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"ipam":{"type":"twill-ipam","subnet":"10.1.0.0/24","rangeStart":"10.1.0.10","ranges":[[{"subnet":"fd00::/64"}]],"quarantine":1}}`))
	f.Add([]byte(`{"ipam":{"ranges":[[{"subnet":"10.0.0.2/31"},{"subnet":"10.0.1.0/30","gateway":"10.0.1.2"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`))
	f.Add([]byte(`{"ipam":{},"runtimeConfig":{"ipRanges":[[{"subnet":"::/0"}]],"ips":["::1"]},"args":{"cni":{"ips":["10.0.0.1/8"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := ParseConfig(data)
		if err != nil {
			return
		}
		var all []Range
		for _, set := range cfg.Sets {
			for _, r := range set {
				if r.Subnet != r.Subnet.Masked() || !r.Subnet.Contains(r.First) || !r.Subnet.Contains(r.Last) || r.Last.Less(r.First) {
					t.Errorf("range %+v is not within its subnet", r)
				}
				if r.Gateway.IsValid() && !r.Subnet.Contains(r.Gateway) || r.First.Is4() != set.Is4() {
					t.Errorf("range %+v has a gateway outside, or is of the wrong family", r)
				}
				if r.Subnet.Bits() < r.Subnet.Addr().BitLen()-1 && r.First == r.Subnet.Addr() {
					t.Errorf("range %+v hands out the network address", r)
				}
				for _, o := range all {
					if o.Contains(r.First) || r.Contains(o.First) {
						t.Errorf("ranges %s and %s overlap", o, r)
					}
				}
				all = append(all, r)
				last := r.Size() - 1
				if at, ok := r.Offset(r.Last); ok && (at != last || r.At(at) != r.Last) {
					t.Errorf("range %s: last address has offset %d and offset %d is %s", r, at, last, r.At(last))
				}
			}
		}
	})
}

func TestRangeArithmetic(t *testing.T) {
	tests := []struct {
		name   string
		r      Range
		size   uint64
		ip     string
		offset uint64
		in     bool
	}{
		{"IPv4", rng("10.0.0.0/8", "10.0.0.1", "10.255.255.254", ""), 1<<24 - 2, "10.1.0.0", 65535, true},
		{"IPv4 outside", rng("10.0.0.0/24", "10.0.0.5", "10.0.0.9", ""), 5, "10.0.0.4", 0, false},
		{"other family", rng("10.0.0.0/24", "10.0.0.5", "10.0.0.9", ""), 5, "::a00:5", 0, false},
		{"whole of IPv4", rng("0.0.0.0/0", "0.0.0.1", "255.255.255.254", ""), 1<<32 - 2, "255.255.255.254", 1<<32 - 3, true},
		{"IPv6", rng("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", ""), math.MaxUint64, "fd00::8000:0:0:0", 1<<63 - 1, true},
		{"carry into the upper half", rng("fd00::/48", "fd00::ffff:ffff:ffff:fff0", "fd00:0:0:2::", ""), math.MaxUint64, "fd00:0:0:1::1", 17, true},
		{"farther than can be counted", rng("fd00::/48", "fd00::1", "fd00:0:0:ffff::", ""), math.MaxUint64, "fd00:0:0:fff0::", math.MaxUint64, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.r.Size(); got != tt.size {
				t.Errorf("size %d, want %d", got, tt.size)
			}
			ip := netip.MustParseAddr(tt.ip)
			offset, in := tt.r.Offset(ip)
			if offset != tt.offset || in != tt.in {
				t.Errorf("offset of %s: %d, %v; want %d, %v", ip, offset, in, tt.offset, tt.in)
			}
			if got := tt.r.At(tt.offset); in && got != ip {
				t.Errorf("address at %d: %s, want %s", tt.offset, got, ip)
			}
		})
	}
}
