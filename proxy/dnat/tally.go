package dnat

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

// tally counts who uses an address. An address is in the kernel's set while anybody does.
type tally struct {
	users map[netip.Addr]int
	was   map[netip.Addr]bool // of those whose count was touched: whether it was above 0 before; nil: none
}

func (t *tally) count(a netip.Addr, by int) {
	if t.was == nil {
		t.was = map[netip.Addr]bool{}
	}
	if t.users == nil {
		t.users = map[netip.Addr]int{}
	}
	n := t.users[a]
	if _, ok := t.was[a]; !ok {
		t.was[a] = n > 0
	}
	if n += by; n == 0 {
		delete(t.users, a)
	} else {
		t.users[a] = n
	}
}

// settle writes what became of the addresses that were touched, each of which is times in its key.
func (t *tally) settle(e *edit, set, times int) {
	for _, a := range slices.SortedFunc(maps.Keys(t.was), netip.Addr.Compare) {
		if is := t.users[a] > 0; is != t.was[a] {
			if key := e.address(a, times); is {
				e.add(set, key, "")
			} else {
				e.remove(set, key)
			}
		}
	}
	t.was = nil // not cleared: a map that was large once takes long to walk through
}

// write writes all addresses that are used.
func (t *tally) write(e *edit, set, times int) {
	for a := range t.users {
		e.add(set, e.address(a, times), "")
	}
}

func (e *edit) address(a netip.Addr, times int) []byte {
	e.key = e.key[:0]
	for range times {
		e.key = kernel.AppendAddr(e.key, a)
	}
	return e.key
}

// count counts what a Service has of addresses: by is 1 when it comes, -1 when it goes.
func (t *Table) count(s *service.Service, by int) {
	var seen []service.Endpoint // the list of the frontend before: several share one
	for i := range s.Frontends {
		f := &s.Frontends[i]
		if f.Addr.Is6() != t.words.v6() {
			continue
		}
		if f.Kind == service.ClusterIP {
			t.clusterIPs.count(f.Addr, by)
		}
		if !same(seen, f.Endpoints) {
			t.countLocal(f.Endpoints, by)
			seen = f.Endpoints
		}
		if f.Inside != nil && !same(seen, f.Inside.Endpoints) {
			t.countLocal(f.Inside.Endpoints, by)
		}
	}
}

func (t *Table) countLocal(all []service.Endpoint, by int) {
	for _, e := range all {
		if e.Local && e.Addr.Addr().Is6() == t.words.v6() {
			t.hairpins.count(e.Addr.Addr(), by)
		}
	}
}

// same reports whether two lists are the same memory.
func same(a, b []service.Endpoint) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
