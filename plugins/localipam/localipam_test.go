package localipam

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
)

// A process that was stopped while it held the store must not hang every ADD and DEL of the node for ever.
func TestStoreThatStaysLocked(t *testing.T) {
	cfg, err := ipam.ParseConfig([]byte(`{"ipam":{"type":"twill-ipam","dataDir":"` + t.TempDir() + `","subnet":"10.0.0.0/24"}}`))
	if err != nil {
		t.Fatal(err)
	}
	store, err := filestore.Open(cfg, "net")
	if err != nil {
		t.Fatal(err)
	}
	l := New(cfg, store)
	owner := kernel.PodOwner{ContainerID: "a", IfName: "eth0"}
	lease, err := l.Allocate(t.Context(), attach.Request{Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := unix.Open(cfg.DataDir+"/net/lock", unix.O_RDWR|unix.O_CLOEXEC, 0)
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
