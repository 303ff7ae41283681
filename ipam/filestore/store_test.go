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
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
)

const (
	small = `[{"subnet":"10.0.0.0/29"}]` // 10.0.0.2 to 10.0.0.6 beside the gateway
	v6    = `[{"subnet":"fd00::/64"}]`
)

// fakeClock is a clock that stands still until it is moved.
type fakeClock struct{ now time.Duration }

func (c *fakeClock) read() time.Duration { return c.now }

// config is a configuration with the given range sets in a data directory.
func config(t testing.TB, dir string, sets ...string) ipam.Config {
	t.Helper()
	cfg, err := ipam.ParseConfig([]byte(`{"ipam":{"dataDir":"` + dir + `","ranges":[` + strings.Join(sets, ",") + `]}}`))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func open4test(t testing.TB, cfg ipam.Config, options ...Option) *Allocator {
	t.Helper()
	a, err := Open(cfg, "net", options...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func own(i int) ipam.Owner { return ipam.Owner{ContainerID: fmt.Sprint("c", i), IfName: "eth0"} }

func addrs(l ipam.Lease) string { return strings.ReplaceAll(describe(l), " and ", " ") }

// add allocates for own(i), with requested addresses if any, and returns the addresses.
func add(t testing.TB, a *Allocator, i int, ips ...string) string {
	t.Helper()
	l, err := tryAdd(a, i, ips...)
	if err != nil {
		t.Fatal(err)
	}
	return addrs(l)
}

func tryAdd(a *Allocator, i int, ips ...string) (ipam.Lease, error) {
	req := ipam.Request{Owner: own(i)}
	for _, ip := range ips {
		req.IPs = append(req.IPs, netip.MustParseAddr(ip))
	}
	return a.Allocate(context.Background(), req)
}

func del(t testing.TB, a *Allocator, i int) bool {
	t.Helper()
	found, err := a.Release(context.Background(), own(i))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func leases(t testing.TB, a *Allocator) map[string]string {
	t.Helper()
	list, err := a.Leases()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, l := range list {
		m[l.Owner.ContainerID] = addrs(l)
	}
	return m
}

// verify checks that the names, the records and the tables of the store agree.
func verify(t testing.TB, a *Allocator) {
	t.Helper()
	if exists(a.path("pending")) {
		t.Error("a pending record is left")
	}
	claimed := map[string]uint64{}
	list, err := names(a.path("addresses"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		id, err := identify(a.path("addresses", name))
		if err != nil {
			t.Fatal(err)
		}
		claimed[name] = id.inode
	}
	all, err := a.Leases()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range all {
		id, err := identify(a.leasePath(l.Owner))
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range l.Addresses {
			n++
			if claimed[addr.Prefix.Addr().String()] != id.inode {
				t.Errorf("%s of %s is not claimed by its record", addr.Prefix, l.Owner)
			}
		}
	}
	if n != len(claimed) {
		t.Errorf("%d addresses are leased and %d claimed", n, len(claimed))
	}
	for _, set := range a.cfg.Sets {
		for _, r := range set {
			verifyTable(t, a, r, claimed)
		}
	}
}

// verifyTable checks one slot table against the claimed names, and its queue for order and completeness.
func verifyTable(t testing.TB, a *Allocator, r ipam.Range, claimed map[string]uint64) {
	t.Helper()
	tab, err := newTable(a.path("slots", r.String()), r, a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.file.close()
	if _, err := tab.load(); err != nil {
		t.Errorf("table %s: %v", r, err)
		return
	}
	state, err := tab.states(true)
	if err != nil {
		t.Fatal(err)
	}
	var leased, queued uint32
	for at, st := range state {
		_, taken := claimed[r.At(uint64(at)).String()]
		if taken != (st == stateLeased) {
			t.Errorf("table %s: %s has state %d, claimed %v", r, r.At(uint64(at)), st, taken)
		}
		if st == stateFresh && uint32(at) < tab.fresh && !tab.isReserved(uint32(at)) {
			t.Errorf("table %s: %s is lost", r, r.At(uint64(at)))
		}
		if st == stateLeased {
			leased++
		}
		if st >= stateReleased {
			queued++
		}
	}
	var prev, last, walked uint32
	for number := tab.head; number != 0; walked++ {
		s, err := tab.slot(number)
		if err != nil || s.prev != prev || s.state < last || walked > queued {
			t.Errorf("table %s: queue at slot %d: %+v, error %v", r, number, s, err)
			return
		}
		prev, last, number = number, s.state, s.next
	}
	if tab.tail != prev || walked != queued || tab.resting != queued || tab.leased != leased {
		t.Errorf("table %s: %+v, want %d leased and %d queued, walked %d", r, tab.header, leased, queued, walked)
	}
}

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
