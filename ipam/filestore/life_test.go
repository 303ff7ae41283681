package filestore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
)

func TestRetain(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	if freed, err := a.Retain(context.Background(), nil); err != nil || freed != nil {
		t.Errorf("without a store: %v, %v", freed, err)
	}
	for i := range 4 {
		add(t, a, i)
	}
	if err := os.WriteFile(a.path("leases", "README"), []byte("foreign"), 0o600); err != nil {
		t.Fatal(err)
	}
	freed, err := a.Retain(context.Background(), []ipam.Owner{own(1), own(3), own(77)})
	if err != nil {
		t.Fatal(err)
	}
	if len(freed) != 2 || freed[0].Owner != own(0) || addrs(freed[0]) != "10.0.0.2" || freed[1].Owner != own(2) {
		t.Errorf("freed %v", freed)
	}
	if diff := cmp.Diff(map[string]string{"c1": "10.0.0.3", "c3": "10.0.0.5"}, leases(t, a)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !exists(a.path("leases", "README")) {
		t.Error("a foreign file was removed")
	}
	verify(t, a)
}

func TestFree(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	ask := []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("fd00::1"), {}}
	want := func(list ...string) {
		t.Helper()
		got, err := a.Free(ask)
		if fmt.Sprint(got) != fmt.Sprint(list) || err != nil {
			t.Errorf("have %v, error %v; want %v", got, err, list)
		}
	}
	want("10.0.0.3", "10.0.0.2") // without a store
	add(t, a, 0)
	want("10.0.0.3")
	add(t, a, 1)
	want()
	if _, err := a.Release(t.Context(), own(0)); err != nil {
		t.Fatal(err)
	}
	want("10.0.0.2")
	a.bootID = "another"
	want("10.0.0.3", "10.0.0.2") // leases of an earlier boot do not count
}

func TestRetainGoesOnPastErrors(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	add(t, a, 1)
	add(t, a, 3)
	if err := os.Mkdir(a.leasePath(own(2)), 0o700); err != nil { // no record can be read or removed by this name
		t.Fatal(err)
	}
	freed, err := a.Retain(context.Background(), nil)
	if err == nil || !strings.Contains(err.Error(), "c2/eth0") {
		t.Errorf("error %v does not name the owner that was not released", err)
	}
	if len(freed) != 2 {
		t.Errorf("freed %v, want the leases before and after the error", freed)
	}
}

func TestQuarantine(t *testing.T) {
	clock := &fakeClock{now: time.Hour}
	two := `[{"subnet":"10.0.0.0/29","rangeEnd":"10.0.0.3"},{"subnet":"10.0.1.0/29","rangeEnd":"10.0.1.3"}]` // .2 and .3 of each
	a := open4test(t, config(t, t.TempDir(), two), WithClock(clock.read))
	expect := func(i int, want string) {
		t.Helper()
		if got := add(t, a, i); got != want {
			t.Errorf("owner %d got %s, want %s", i, got, want)
		}
	}
	expect(1, "10.0.0.2")
	expect(2, "10.0.0.3")
	del(t, a, 2)
	clock.now += time.Second
	del(t, a, 1)
	expect(3, "10.0.1.2") // the first range has free addresses, but they rest
	clock.now += 28 * time.Second
	expect(4, "10.0.1.3")
	del(t, a, 4)
	expect(5, "10.0.0.3") // everything rests: the oldest is taken
	clock.now += time.Second
	del(t, a, 5)
	expect(6, "10.0.0.2") // rested for 30 s
	clock.now += time.Second
	del(t, a, 3)
	expect(7, "10.0.1.3") // released in the order 4, 5, 3: first in, first out
	expect(8, "10.0.0.3")
	expect(9, "10.0.1.2")
	verify(t, a)
}

func TestLastRangeReleasedOutOfOrder(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	for i := range 5 {
		add(t, a, i)
	}
	for _, i := range []int{3, 0, 4, 1, 2} {
		del(t, a, i)
	}
	if got := add(t, a, 10, "10.0.0.6"); got != "10.0.0.6" { // out of the middle of the queue
		t.Errorf("got %s", got)
	}
	verify(t, a)
	for i, want := range []string{"10.0.0.5", "10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		if got := add(t, a, 20+i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	verify(t, a)
}

func TestRebootDropsLeases(t *testing.T) {
	dir := t.TempDir()
	boot := func(id string) *Allocator {
		return open4test(t, config(t, dir, small, v6), func(a *Allocator) { a.bootID = id })
	}
	before := boot("one")
	for i := range 5 {
		add(t, before, i)
	}
	if err := os.Truncate(before.leasePath(own(1)), 0); err != nil { // as a power cut leaves it
		t.Fatal(err)
	}
	if err := os.Truncate(before.path("slots", before.cfg.Sets[0][0].String()), 100); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before.path("pending"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	after := boot("two")
	if _, err := after.Lookup(own(0)); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("lookup of a lease of the earlier boot: %v", err)
	}
	if got := leases(t, after); len(got) != 0 {
		t.Errorf("leases of the earlier boot: %v", got)
	}
	if del(t, after, 0) { // a late DEL
		t.Error("released a lease of the earlier boot")
	}
	for i := range 5 {
		add(t, after, 10+i)
	}
	verify(t, after)
}

func TestBusy(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	add(t, a, 1)
	lock, err := a.acquire(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Allocate(ctx, ipam.Request{Owner: own(2)}); !errors.Is(err, ipam.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ErrBusy and the context's", err)
	}
	start := time.Now()
	if err := a.Status(); err != nil {
		t.Errorf("status while the store is locked: %v", err)
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("status took %s", took)
	}
	if got := leases(t, a); len(got) != 1 {
		t.Errorf("leases while the store is locked: %v", got)
	}
	lock.close()
	add(t, a, 2)
}

func TestStatusWhenTheDirectoryCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := open4test(t, config(t, filepath.Join(file, "data"), small))
	if err := a.Status(); err == nil {
		t.Error("status is good although the data directory would be below a file")
	}
	if _, err := tryAdd(a, 1); err == nil {
		t.Error("allocated below a file")
	}
}
