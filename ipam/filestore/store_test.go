package filestore

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

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
