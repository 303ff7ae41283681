package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
)

func TestAllocateRelease(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small, v6))
	if del(t, a, 1) {
		t.Error("released a lease before there was a store")
	}
	if exists(a.dir) {
		t.Error("a release made the store")
	}
	if err := a.Status(); err != nil {
		t.Errorf("status before the first allocation: %v", err)
	}
	if _, err := a.Lookup(own(1)); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("lookup before the first allocation: %v", err)
	}
	netns := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := a.Allocate(context.Background(), ipam.Request{Owner: own(1), Netns: netns, Pod: "ns/pod"})
	if err != nil {
		t.Fatal(err)
	}
	want := []ipam.Address{
		{Prefix: netip.MustParsePrefix("10.0.0.2/29"), Gateway: netip.MustParseAddr("10.0.0.1")},
		{Prefix: netip.MustParsePrefix("fd00::2/64"), Gateway: netip.MustParseAddr("fd00::1")},
	}
	if fmt.Sprint(got.Addresses) != fmt.Sprint(want) {
		t.Errorf("addresses %v, want %v", got.Addresses, want)
	}
	found, err := a.Lookup(own(1))
	if err != nil || fmt.Sprint(found) != fmt.Sprint(got) || found.Pod != "ns/pod" || found.NetnsInode == 0 {
		t.Errorf("lookup %v, error %v, want %v", found, err, got)
	}
	if NetnsGone(found) {
		t.Error("the network namespace is taken for gone")
	}
	if err := os.Remove(netns); err != nil {
		t.Fatal(err)
	}
	if !NetnsGone(found) {
		t.Error("the network namespace is not taken for gone")
	}
	if again := add(t, a, 1); again != "10.0.0.2 fd00::2" {
		t.Errorf("the same owner got %s the second time", again)
	}
	verify(t, a)
	if !del(t, a, 1) || del(t, a, 1) {
		t.Error("want the first release to find a lease and the second none")
	}
	verify(t, a)
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	a := open4test(t, config(t, dir, small))
	add(t, a, 1)
	want := map[string]fs.FileMode{
		".": 0o755, "net": 0o700, "net/lock": 0o600, "net/leases": 0o700, "net/addresses": 0o700, "net/slots": 0o700,
		"net/leases/c1:eth0": 0o600, "net/addresses/10.0.0.2": 0o600, "net/slots/10.0.0.1-10.0.0.6": 0o600,
	}
	got := map[string]fs.FileMode{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		got[path] = info.Mode().Perm()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRangesAreUsedUp(t *testing.T) {
	tests := []struct {
		name string
		sets []string
		want []string // of c0, c1, ... until exhaustion
		last string   // what one more gets when c0 has gone
	}{
		{"gateway, network and broadcast stay free", []string{small}, []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}, "10.0.0.2"},
		{"gateway in the middle", []string{`[{"subnet":"10.0.0.0/29","gateway":"10.0.0.3","rangeEnd":"10.0.0.4"}]`}, []string{"10.0.0.1", "10.0.0.2", "10.0.0.4"}, "10.0.0.1"},
		{"second range of a set", []string{`[{"subnet":"10.0.0.0/30"},{"subnet":"10.0.1.0/30"}]`}, []string{"10.0.0.2", "10.0.1.2"}, "10.0.0.2"},
		{"gateway of one range within another", []string{`[{"subnet":"10.0.0.0/29","rangeEnd":"10.0.0.2","gateway":"10.0.0.5"},{"subnet":"10.0.0.0/29","rangeStart":"10.0.0.5","gateway":"10.0.0.5"}]`},
			[]string{"10.0.0.1", "10.0.0.2", "10.0.0.6"}, "10.0.0.1"},
		{"two sets of one family", []string{`[{"subnet":"10.0.0.0/30"}]`, `[{"subnet":"10.0.1.0/29"}]`}, []string{"10.0.0.2 10.0.1.2"}, "10.0.0.2 10.0.1.3"},
		{"the smaller family decides", []string{`[{"subnet":"10.0.0.0/30"}]`, v6}, []string{"10.0.0.2 fd00::2"}, "10.0.0.2 fd00::3"},
		{"point to point", []string{`[{"subnet":"10.0.0.0/31"}]`}, []string{"10.0.0.1"}, "10.0.0.1"},
		{"single address", []string{`[{"subnet":"10.0.0.7/32"}]`, `[{"subnet":"fd00::7/128"}]`}, []string{"10.0.0.7 fd00::7"}, "10.0.0.7 fd00::7"},
		{"broadcast of IPv6 is none", []string{`[{"subnet":"fd00::/126"}]`}, []string{"fd00::2", "fd00::3"}, "fd00::2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := open4test(t, config(t, t.TempDir(), tt.sets...))
			for i, want := range tt.want {
				if err := a.Status(); err != nil {
					t.Errorf("status with an address left: %v", err)
				}
				if got := add(t, a, i); got != want {
					t.Errorf("owner %d got %s, want %s", i, got, want)
				}
			}
			_, err := tryAdd(a, 99)
			if !errors.Is(err, ipam.ErrExhausted) {
				t.Fatalf("error %v, want ErrExhausted", err)
			}
			if first := a.cfg.Sets[0][0]; !strings.Contains(err.Error(), first.String()) || !strings.Contains(err.Error(), "leased") {
				t.Errorf("error %q names neither range %s nor how much is leased", err, first)
			}
			if err := a.Status(); !errors.Is(err, ipam.ErrExhausted) {
				t.Errorf("status %v, want ErrExhausted", err)
			}
			verify(t, a)
			del(t, a, 0)
			if err := a.Status(); err != nil {
				t.Errorf("status after a release: %v", err)
			}
			if got := add(t, a, 99); got != tt.last {
				t.Errorf("got %s after a release, want %s", got, tt.last)
			}
		})
	}
}

func TestRequestedAddresses(t *testing.T) {
	tests := []struct {
		name string
		ips  []string
		want string // the addresses, or a part of the error
		bad  bool
	}{
		{"one of two families", []string{"10.0.0.5"}, "10.0.0.5 fd00::3", false},
		{"both families", []string{"fd00::9", "10.0.0.5"}, "10.0.0.5 fd00::9", false},
		{"twice the same", []string{"10.0.0.5", "10.0.0.5"}, "10.0.0.5 fd00::3", false},
		{"beyond the slot table", []string{"fd00::1234:0:0:1"}, "10.0.0.3 fd00::1234:0:0:1", false},
		{"taken", []string{"10.0.0.2"}, "it is leased to c0/eth0", true},
		{"taken in one family", []string{"10.0.0.3", "fd00::2"}, "it is leased to c0/eth0", true},
		{"outside", []string{"10.0.1.2"}, "it is in none of the ranges", true},
		{"network address", []string{"10.0.0.0"}, "it is in none of the ranges", true},
		{"broadcast", []string{"10.0.0.7"}, "it is in none of the ranges", true},
		{"gateway", []string{"10.0.0.1"}, "it is a gateway", true},
		{"two of one set", []string{"10.0.0.4", "10.0.0.5"}, "10.0.0.4 was requested of the same range set", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := open4test(t, config(t, t.TempDir(), small, v6))
			add(t, a, 0)
			before := leases(t, a)
			l, err := tryAdd(a, 1, tt.ips...)
			if tt.bad {
				if !errors.Is(err, ipam.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want ErrUnavailable with %q", err, tt.want)
				}
				if diff := cmp.Diff(before, leases(t, a)); diff != "" {
					t.Errorf("a refused request changed the leases, -before +after:\n%s", diff)
				}
			} else if err != nil || addrs(l) != tt.want {
				t.Errorf("got %s, error %v, want %s", addrs(l), err, tt.want)
			}
			verify(t, a)
			del(t, a, 1)
			verify(t, a)
		})
	}
}

func TestRequestAgainstHeldLease(t *testing.T) {
	dir := t.TempDir()
	a := open4test(t, config(t, dir, small))
	add(t, a, 1, "10.0.0.4")
	if got := add(t, a, 1, "10.0.0.4"); got != "10.0.0.4" {
		t.Errorf("got %s, want 10.0.0.4", got)
	}
	if _, err := tryAdd(a, 1, "10.0.0.5"); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("another address than the held one: %v", err)
	}
	both := open4test(t, config(t, dir, small, v6))
	if _, err := tryAdd(both, 1); err == nil || !strings.Contains(err.Error(), "release it first") {
		t.Errorf("a range set more than the held lease has: %v", err)
	}
}

func TestInvalidOwner(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	bad := ipam.Owner{ContainerID: "../../x", IfName: "eth0"}
	if _, err := a.Allocate(context.Background(), ipam.Request{Owner: bad}); err == nil {
		t.Error("allocated for an owner that is no file name")
	}
	if _, err := a.Release(context.Background(), bad); err == nil {
		t.Error("released for an owner that is no file name")
	}
	if _, err := a.Lookup(bad); err == nil {
		t.Error("looked up an owner that is no file name")
	}
	if _, err := Open(a.cfg, "../net"); err == nil {
		t.Error("opened a network that is no directory name")
	}
}
