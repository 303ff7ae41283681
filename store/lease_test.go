package store

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var comparable = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

// The keys and values are what flannel v0.26.7 writes for these nodes.
func TestLeaseAsFlannel(t *testing.T) {
	data := []byte(`{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}`)
	v4, v6 := netip.MustParsePrefix("10.5.52.0/24"), netip.MustParsePrefix("fd00:0:0:34::/64")
	node4, node6 := netip.MustParseAddr("192.168.1.7"), netip.MustParseAddr("2001:db8::7")
	tests := []struct {
		name       string
		lease      Lease
		key, value string
	}{
		{"IPv4", Lease{Subnet: v4, PublicIP: node4, BackendType: "vxlan", BackendData: data},
			"10.5.52.0-24", `{"PublicIP":"192.168.1.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`},
		{"dual stack", Lease{Subnet: v4, IPv6Subnet: v6, PublicIP: node4, PublicIPv6: node6, BackendType: "vxlan", BackendData: data, BackendV6Data: data},
			"10.5.52.0-24&fd00:0:0:34::-64", `{"PublicIP":"192.168.1.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan",` +
				`"BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`},
		{"IPv6", Lease{IPv6Subnet: v6, PublicIPv6: node6, BackendType: "vxlan", BackendV6Data: data},
			"0.0.0.0-0&fd00:0:0:34::-64", `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::7","BackendType":"vxlan",` +
				`"BackendV6Data":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`},
		{"host-gw", Lease{Subnet: v4, PublicIP: node4, BackendType: "host-gw"},
			"10.5.52.0-24", `{"PublicIP":"192.168.1.7","PublicIPv6":null,"BackendType":"host-gw"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value, err := test.lease.Value()
			if err != nil || string(value) != test.value || test.lease.Key() != test.key {
				t.Errorf("have %s = %s, %v\nwant %s = %s", test.lease.Key(), value, err, test.key, test.value)
			}
			s, err := ParseKey(test.key)
			if err != nil {
				t.Fatal(err)
			}
			have, err := DecodeLease(s, []byte(test.value))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.lease, have, comparable); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeLeaseTolerates(t *testing.T) {
	s, _ := ParseKey("10.5.52.0-24")
	want := &Lease{Subnet: s.IPv4, PublicIP: netip.MustParseAddr("192.168.1.7")}
	tests := []struct{ name, value string }{
		{"a reservation", `{"PublicIP":"192.168.1.7"}`},
		{"unknown fields", `{"PublicIP":"192.168.1.7","NodeName":"n1"}`},
		{"case of the names", `{"publicip":"192.168.1.7"}`},
		{"nulls", `{"PublicIP":"192.168.1.7","PublicIPv6":null,"BackendData":null,"BackendV6Data":null}`},
		{"unspecified IPv6", `{"PublicIP":"192.168.1.7","PublicIPv6":"::"}`},
		{"a mapped address", `{"PublicIP":"::ffff:192.168.1.7"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := DecodeLease(s, []byte(test.value))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, have, comparable); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeLeaseErrors(t *testing.T) {
	tests := []struct{ name, key, value, want string }{
		{"empty", "10.5.52.0-24", ``, "not a lease"},
		{"no object", "10.5.52.0-24", `"x"`, "not a lease"},
		{"cut off", "10.5.52.0-24", `{"PublicIP":"192.168.1.7"`, "not a lease"},
		{"too long", "10.5.52.0-24", strings.Repeat(" ", MaxLeaseSize+1), "are allowed"},
		{"address is a number", "10.5.52.0-24", `{"PublicIP":7}`, "PublicIP"},
		{"address is garbage", "10.5.52.0-24", `{"PublicIP":"x"}`, `PublicIP: "x"`},
		{"address is IPv6", "10.5.52.0-24", `{"PublicIP":"2001:db8::7"}`, "PublicIP: 2001:db8::7 is not an IPv4"},
		{"IPv6 address is IPv4", "0.0.0.0-0&fd00::-64", `{"PublicIPv6":"192.168.1.7"}`, "PublicIPv6"},
		{"zone", "0.0.0.0-0&fd00::-64", `{"PublicIPv6":"fe80::1%eth0"}`, "PublicIPv6"},
		{"no address", "10.5.52.0-24", `{"BackendType":"vxlan"}`, "no public address"},
		{"null", "10.5.52.0-24", `null`, "no public address"},
		{"address of the wrong family", "10.5.52.0-24", `{"PublicIPv6":"2001:db8::7"}`, "no public address"},
		{"multicast", "10.5.52.0-24", `{"PublicIP":"224.0.0.1"}`, "224.0.0.1"},
		{"broadcast", "10.5.52.0-24", `{"PublicIP":"255.255.255.255"}`, "255.255.255.255"},
		{"loopback", "10.5.52.0-24", `{"PublicIP":"127.0.0.1"}`, "127.0.0.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := ParseKey(test.key)
			if err != nil {
				t.Fatal(err)
			}
			l, err := DecodeLease(s, []byte(test.value))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.key) || l != nil {
				t.Errorf("have %+v, error %v, want one with %q and the key", l, err, test.want)
			}
		})
	}
}

func TestValueErrors(t *testing.T) {
	v4 := netip.MustParsePrefix("10.5.52.0/24")
	ip := netip.MustParseAddr("192.168.1.7")
	for name, l := range map[string]*Lease{
		"no address":      {Subnet: v4},
		"data is no JSON": {Subnet: v4, PublicIP: ip, BackendData: []byte("{")},
		"too long":        {Subnet: v4, PublicIP: ip, BackendData: []byte(`"` + strings.Repeat("x", MaxLeaseSize) + `"`)},
		"wrong family":    {Subnet: v4, PublicIP: netip.MustParseAddr("2001:db8::7")},
	} {
		if value, err := l.Value(); err == nil {
			t.Errorf("%s: have %s", name, value)
		}
	}
}

func TestParseKeyErrors(t *testing.T) {
	for _, key := range []string{
		"", "&", "-", "10.5.52.0", "10.5.52.0/24", "10.5.52.0-", "10.5.52.0-x", "10.5.52.0-33", "10.5.52.0-024", "10.5.52.0-+24",
		"10.5.52.1-24", "010.5.52.0-24", "10.5.52.0-24 ", "0.0.0.0-0", "0.0.0.0-0&", "10.5.52.0-24&", "fd00::-64",
		"10.5.52.0-24&10.5.53.0-24", "10.5.52.0-24&FD00::-64", "10.5.52.0-24&fd00:0::-64", "10.5.52.0-24&fd00::1-64", "10.5.52.0-24&::-0",
		"10.5.52.0-24&::ffff:10.0.0.0-104", "10.5.52.0-24&fd00::-64&fd00::-64", "10.5.52.0-24&fe80::%eth0-64", "nonsense",
		strings.Repeat("1", 10000),
	} {
		if s, err := ParseKey(key); err == nil {
			t.Errorf("%q reads as %v", key, s)
		} else if len(err.Error()) > 400 {
			t.Errorf("the error for a key of %d bytes has %d", len(key), len(err.Error()))
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("10.5.52.0-24")
	f.Add("10.5.52.0-24&fd00:0:0:34::-64")
	f.Add("0.0.0.0-0&fd00:0:0:34::-64")
	f.Fuzz(func(t *testing.T, key string) {
		s, err := ParseKey(key)
		if err == nil && s.Key() != key {
			t.Errorf("%q reads as %v, which is written %q", key, s, s.Key())
		}
	})
}

func FuzzDecodeLease(f *testing.F) {
	f.Add("10.5.52.0-24", []byte(`{"PublicIP":"192.168.1.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`))
	f.Add("0.0.0.0-0&fd00:0:0:34::-64", []byte(`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::7","BackendV6Data":{"VNI":1}}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s, err := ParseKey(key)
		if err != nil {
			return
		}
		l, err := DecodeLease(s, value)
		if err != nil {
			return
		}
		once, err := l.Value()
		if err != nil {
			// Escapes may make a value longer than it was read.
			if len(value)*6 < MaxLeaseSize {
				t.Fatalf("%q was read as %+v, which cannot be written: %v", value, l, err)
			}
			return
		}
		again, err := DecodeLease(s, once)
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", value, once, err)
		}
		twice, err := again.Value()
		if err != nil || string(once) != string(twice) {
			t.Errorf("%q and then %q were written, %v", once, twice, err)
		}
	})
}
