package localipam

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
)

// open returns the IPAM of a network with the subnet 10.0.0.0/24.
func open(t *testing.T) IPAM {
	t.Helper()
	cfg, err := ipam.ParseConfig([]byte(`{"ipam":{"type":"twill-ipam","dataDir":"` + t.TempDir() + `","subnet":"10.0.0.0/24"}}`))
	if err != nil {
		t.Fatal(err)
	}
	store, err := filestore.Open(cfg, "net")
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, store)
}

// What a lease holds is told until it is released; after that the address is free.
func TestWhoHoldsWhat(t *testing.T) {
	l := open(t)
	owner := kernel.PodOwner{ContainerID: "a", IfName: "eth0"}
	addr := []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	want := func(when string, leased, free []netip.Addr) {
		t.Helper()
		haveLeased, err := l.Leased(t.Context(), owner)
		haveFree, freeErr := l.Free(t.Context(), addr)
		if err != nil || freeErr != nil || !slices.Equal(haveLeased, leased) || !slices.Equal(haveFree, free) {
			t.Errorf("%s: leased %v, error %v; free %v, error %v", when, haveLeased, err, haveFree, freeErr)
		}
	}
	want("before", nil, addr)
	if _, err := l.Allocate(t.Context(), attach.Request{Owner: owner}); err != nil {
		t.Fatal(err)
	}
	want("leased", addr, nil)
	if err := l.Release(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	want("released", nil, addr)
}

// A process that was stopped while it held the store must not hang every ADD and DEL of the node for ever.
func TestStoreThatStaysLocked(t *testing.T) {
	l := open(t)
	owner := kernel.PodOwner{ContainerID: "a", IfName: "eth0"}
	lease, err := l.Allocate(t.Context(), attach.Request{Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := unix.Open(l.cfg.DataDir+"/net/lock", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lock)
	if err := unix.Flock(lock, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l.wait = 20 * time.Millisecond
	_, allocateErr := l.Allocate(t.Context(), attach.Request{Owner: kernel.PodOwner{ContainerID: "b", IfName: "eth0"}})
	for verb, err := range map[string]error{"Allocate": allocateErr, "Release": l.Release(t.Context(), owner), "Retain": l.Retain(t.Context(), nil)} {
		if !errors.Is(err, ipam.ErrBusy) {
			t.Errorf("%s: have error %v, want one that says the store is busy", verb, err)
		}
	}
	if err := l.Check(t.Context(), owner, []netip.Prefix{lease.Addresses[0].Prefix}); err != nil {
		t.Errorf("CHECK waits for the lock: %v", err)
	}
	if err := l.Status(t.Context()); err != nil {
		t.Errorf("STATUS waits for the lock: %v", err)
	}
}
