package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOwnerValidate(t *testing.T) {
	tests := []struct {
		name, id, ifName string
		ok               bool
	}{
		{"usual", "0123456789abcdef", "eth0", true},
		{"all kinds of characters", "a_b.c-D9", "net1@x", true},
		{"longest", strings.Repeat("a", maxContainerID), strings.Repeat("e", 15), true},
		{"empty id", "", "eth0", false},
		{"leading dot", ".a", "eth0", false},
		{"parent directory", "..", "eth0", false},
		{"slash in id", "a/b", "eth0", false},
		{"colon in id", "a:b", "eth0", false},
		{"zero byte in id", "a\x00b", "eth0", false},
		{"too long id", strings.Repeat("a", maxContainerID+1), "eth0", false},
		{"empty interface", "a", "", false},
		{"long interface", "a", strings.Repeat("e", 16), false},
		{"dot", "a", ".", false},
		{"dot dot", "a", "..", false},
		{"slash in interface", "a", "e/0", false},
		{"colon in interface", "a", "e:0", false},
		{"space in interface", "a", "e 0", false},
		{"zero byte in interface", "a", "e\x000", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := (Owner{tt.id, tt.ifName}).Validate(); (err == nil) != tt.ok {
				t.Errorf("Validate() = %v, want ok %v", err, tt.ok)
			}
		})
	}
	for _, name := range []string{"", "..", "a/b", ".a", "a b", strings.Repeat("n", 256)} {
		if ValidateNetwork(name) == nil {
			t.Errorf("network name %q is taken for valid", name)
		}
	}
}

func sampleLease() Lease {
	return Lease{
		Owner: Owner{"c1", "eth0"},
		Addresses: []Address{
			{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParseAddr("10.1.2.1")},
			{Prefix: netip.MustParsePrefix("fd00::3/128")},
		},
		Netns: "/run/netns/x", NetnsInode: 4026531840, Pod: "default/web", Created: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC),
	}
}

func TestLeaseRecord(t *testing.T) {
	want := sampleLease()
	data, err := EncodeLease(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeLease(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for n := range len(data) - 1 { // the last byte is the newline
		if _, err := DecodeLease(data[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("the first %d of %d bytes: error %v, want ErrDamaged", n, len(data), err)
		}
	}
	later := strings.Replace(string(data), `"version":1`, `"version":1,"added":true`, 1)
	if _, err := DecodeLease([]byte(later)); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

func TestDecodeLeaseRefuses(t *testing.T) {
	tests := []struct{ name, data string }{
		{"empty", ""},
		{"zero bytes", "\x00\x00\x00"},
		{"other JSON", "[]"},
		{"other version", `{"version":2,"containerID":"c","ifName":"e","addresses":[{"address":"10.0.0.2/24"}]}`},
		{"no owner", `{"version":1,"addresses":[{"address":"10.0.0.2/24"}]}`},
		{"path in owner", `{"version":1,"containerID":"../c","ifName":"e","addresses":[{"address":"10.0.0.2/24"}]}`},
		{"no addresses", `{"version":1,"containerID":"c","ifName":"e","addresses":[]}`},
		{"empty address", `{"version":1,"containerID":"c","ifName":"e","addresses":[{"address":""}]}`},
		{"bad address", `{"version":1,"containerID":"c","ifName":"e","addresses":[{"address":"10.0.0.2"}]}`},
		{"mapped address", `{"version":1,"containerID":"c","ifName":"e","addresses":[{"address":"::ffff:10.0.0.2/120"}]}`},
		{"gateway of the other family", `{"version":1,"containerID":"c","ifName":"e","addresses":[{"address":"10.0.0.2/24","gateway":"fd00::1"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if l, err := DecodeLease([]byte(tt.data)); !errors.Is(err, ErrDamaged) {
				t.Errorf("%+v, error %v, want ErrDamaged", l, err)
			}
		})
	}
}

func FuzzDecodeLease(f *testing.F) {
	data, _ := EncodeLease(sampleLease())
	f.Add(data)
	f.Add([]byte(`{"version":1,"containerID":"c","ifName":"e","addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := DecodeLease(data)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v does not wrap ErrDamaged", err)
			}
			return
		}
		again, err := EncodeLease(l)
		if err != nil {
			return // a year beyond 9999, which JSON times cannot hold
		}
		l2, err := DecodeLease(again)
		if err != nil {
			t.Fatalf("what was decoded from %q and encoded again cannot be decoded: %v", data, err)
		}
		l.Created = l.Created.UTC()
		if diff := cmp.Diff(l, l2, cmpAddrs); diff != "" {
			t.Errorf("-first +second:\n%s", diff)
		}
	})
}

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name, in string
		want     Args
		bad      bool
	}{
		{"empty", "", Args{}, false},
		{"foreign keys", "IgnoreUnknown=1;FOO=bar=x", Args{}, false},
		{"address", "IP=10.0.0.7", Args{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}, false},
		{"two addresses and a pod", "IP=10.0.0.7/24,fd00::7;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web",
			Args{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, Pod: "ns/web"}, false},
		{"pod without namespace", "K8S_POD_NAME=web", Args{}, false},
		{"no value", "IP", Args{}, true},
		{"bad address", "IP=x", Args{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseArgs(tt.in)
			if (err != nil) != tt.bad {
				t.Fatalf("error %v, want one: %v", err, tt.bad)
			}
			if diff := cmp.Diff(tt.want, got, cmpAddrs); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseResolvConf(t *testing.T) {
	in := "# comment\n; another\n\nnameserver 10.0.0.10\n  nameserver\tfd00::10\nnameserver\ndomain a.example\nsearch x y\nsearch svc.local  local\n" +
		"options ndots:5\noptions edns0 trust-ad\nsortlist 10.0.0.0\n"
	got, err := ParseResolvConf(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := DNS{
		Nameservers: []string{"10.0.0.10", "fd00::10"}, Domain: "a.example",
		Search: []string{"svc.local", "local"}, Options: []string{"ndots:5", "edns0", "trust-ad"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := ParseResolvConf(strings.NewReader(strings.Repeat("x", 1<<17))); err == nil {
		t.Error("a line of 128 KiB is no error")
	}
}
