package filestore

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/twill-cni/twill/ipam"
)

// A node that changes over keeps its subnet, and its pods the addresses that host-local gave them.
func TestHostLocalIsPassedOver(t *testing.T) {
	cfg := config(t, t.TempDir(), small, v6) // 10.0.0.2 to 10.0.0.6
	cfg.HostLocal = t.TempDir()
	hold := func(network, name string) string {
		t.Helper()
		path := filepath.Join(cfg.HostLocal, network, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("container\r\neth0"), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hold("cbr0", "last_reserved_ip.0")
	hold("cbr0", "10.0.0.2")
	hold("other", "10.0.0.4")
	last := hold("cbr0", "10.0.0.6")
	hold("cbr0", "fd00::2")

	a := open4test(t, cfg)
	if have := add(t, a, 1); have != "10.0.0.3 fd00::3" {
		t.Errorf("the first pod has %s", have)
	}
	if have := add(t, a, 2); have != "10.0.0.5 fd00::4" {
		t.Errorf("the second pod has %s", have)
	}
	_, err := a.Allocate(context.Background(), ipam.Request{Owner: own(3), IPs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}})
	if !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("an address of host-local's was asked for: %v", err)
	}
	if _, err := a.Allocate(context.Background(), ipam.Request{Owner: own(3)}); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("host-local has all the rest: %v", err)
	}

	// host-local's DEL makes room.
	if err := os.Remove(last); err != nil {
		t.Fatal(err)
	}
	if have := add(t, open4test(t, cfg), 3, "10.0.0.6"); have != "10.0.0.6 fd00::5" {
		t.Errorf("the third pod has %s", have)
	}
}
