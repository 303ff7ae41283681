package dnat

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// dice makes Services at random. Few addresses are used, so that Services share endpoints and pass frontends on to each other.
type dice struct {
	*rand.Rand
	family family
}

func (d dice) endpoints(most int) (out []service.Endpoint) {
	for range d.IntN(most + 1) {
		e := d.family.backends(fmt.Sprintf("10.1.%d.%d:%d", 1+d.IntN(2), 2+d.IntN(8), 8080+d.IntN(2)))[0]
		e.Weight = 1 + d.Uint32N(3)
		out = append(out, e)
	}
	return out
}

// service returns a Service with some of the addresses 10.96.0.0 to 10.96.0.3, where i says which: no other i has them.
func (d dice) service(i int) *service.Service {
	s := svc(fmt.Sprintf("s%d", i))
	shared := d.endpoints(5)
	for port := range 3 {
		if d.IntN(3) == 0 {
			continue
		}
		f := d.family.frontend(fmt.Sprintf("10.96.%d.%d:%d", i, d.IntN(2), 80+port))
		if f.Endpoints = shared; d.IntN(3) == 0 {
			f.Endpoints = d.endpoints(20)
		}
		f.Scheduler = service.Schedulers()[d.IntN(len(service.Schedulers()))]
		f.Masquerade, f.Empty = service.Masquerade(d.IntN(3)), service.Empty(d.IntN(2))
		if d.IntN(3) == 0 {
			f.Affinity = time.Duration(1+d.IntN(2)) * time.Hour
		}
		if d.IntN(3) == 0 {
			f.Kind = service.LoadBalancer
			f.Inside = &service.Backends{Endpoints: d.endpoints(4), Empty: service.Empty(d.IntN(2))}
		}
		if d.IntN(4) == 0 {
			f.Allowed = d.family.config.PodNetworks[:d.IntN(2)]
		}
		s.Frontends = append(s.Frontends, f)
	}
	return s
}

// check sends packets to every frontend, and compares where they go with what the Service says.
func check(t *testing.T, w *world, f family, all map[int]*service.Service) {
	t.Helper()
	for _, s := range all {
		for _, fe := range s.Frontends {
			for _, client := range []string{localPod, outsider} {
				checkClient(t, w, fe, f.at(client), client == localPod)
			}
		}
	}
}

func checkClient(t *testing.T, w *world, fe service.Frontend, client netip.AddrPort, inside bool) {
	t.Helper()
	verdict, want := expected(fe, client, inside)
	have := map[netip.AddrPort]bool{}
	for i := range 80 {
		r := w.trace(connection(fe, client, i))
		if r.verdict != verdict || verdict == "dnat" && !want[r.to] {
			t.Fatalf("%v from %v: %+v, want %s to %v", fe.FrontendKey, client, r, verdict, slices.Collect(maps.Keys(want)))
		}
		have[r.to] = true
	}
	if verdict == "dnat" && fe.Affinity == 0 && (fe.Scheduler == service.Random || fe.Scheduler == service.RoundRobin) && len(have) != len(want) {
		t.Fatalf("%v from %v: %d endpoints of %d are reached", fe.FrontendKey, client, len(have), len(want))
	}
}

// connection returns the first packet of a client's i-th connection.
func connection(fe service.Frontend, client netip.AddrPort, i int) packet {
	return packet{src: netip.AddrPortFrom(client.Addr(), uint16(1000+i)), dst: netip.AddrPortFrom(fe.Addr, fe.Port), proto: uint8(fe.Protocol),
		random: func(mod uint32) uint32 { return uint32(i) % mod }}
}

// expected returns what a Service says about a client's connections.
func expected(fe service.Frontend, client netip.AddrPort, inside bool) (verdict string, to map[netip.AddrPort]bool) {
	backends := service.Backends{Endpoints: fe.Endpoints, Empty: fe.Empty}
	if inside && fe.Inside != nil {
		backends = *fe.Inside
	}
	to = map[netip.AddrPort]bool{}
	for _, e := range backends.Endpoints {
		to[e.Addr] = true
	}
	switch {
	case fe.Allowed != nil && !slices.ContainsFunc(fe.Allowed, func(p netip.Prefix) bool { return p.Contains(client.Addr()) }):
		return "drop", to
	case len(to) > 0:
		return "dnat", to
	case backends.Empty == service.Drop:
		return "drop", to
	}
	return "reject", to
}

// checkBetween checks that every frontend does what it did before or what it is to do. A frontend that is on only one side may also be
// known or unknown.
func checkBetween(t *testing.T, w *world, f family, before, after map[int]*service.Service) {
	t.Helper()
	clear(w.sets[setAffinity])
	find := func(all map[int]*service.Service, k service.FrontendKey) *service.Frontend {
		for _, s := range all {
			for i := range s.Frontends {
				if s.Frontends[i].FrontendKey == k {
					return &s.Frontends[i]
				}
			}
		}
		return nil
	}
	ok := func(fe *service.Frontend, client netip.AddrPort, inside bool, r result) bool {
		if fe == nil {
			return r.verdict == "reject" || r.verdict == "drop"
		}
		verdict, to := expected(*fe, client, inside)
		return r.verdict == verdict && (verdict != "dnat" || to[r.to])
	}
	for _, all := range []map[int]*service.Service{before, after} {
		for _, s := range all {
			for _, fe := range s.Frontends {
				was, is := find(before, fe.FrontendKey), find(after, fe.FrontendKey)
				for _, name := range []string{localPod, outsider} {
					for i := range 6 {
						client, inside := f.at(name), name == localPod
						var opened *service.Frontend // who may use a frontend is a part of the skeleton, which changes first
						if was != nil && is != nil {
							one := *was
							one.Allowed, opened = is.Allowed, &one
						}
						if r := w.trace(connection(fe, client, i)); !ok(was, client, inside, r) && !ok(is, client, inside, r) && !ok(opened, client, inside, r) {
							t.Fatalf("%v from %v, between two transactions: %+v", fe.FrontendKey, client, r)
						}
					}
				}
			}
		}
	}
}

// TestRandomServices changes Services at random. Packets go to right endpoints after every transaction, also when changes are split into many, and the
// kernel then holds exactly what it should. Restarts in between write nothing.
func TestRandomServices(t *testing.T) {
	for _, f := range families() {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(f.name, seed), func(t *testing.T) {
				d := dice{rand.New(rand.NewPCG(seed, 1)), f}
				w, table, all := newWorld(t, f.config), New(f.config), map[int]*service.Service{}
				for range 20 {
					var some []Change
					before := maps.Clone(all)
					for range 1 + d.IntN(3) {
						i := d.IntN(4)
						if all[i] = d.service(i); d.IntN(6) == 0 {
							delete(all, i)
						}
						some = slices.DeleteFunc(some, func(c Change) bool { return c.Name == svc(fmt.Sprintf("s%d", i)).Name })
						some = append(some, Change{svc(fmt.Sprintf("s%d", i)).Name, all[i]})
					}
					u := table.Set(some)
					if u.Skeleton {
						w.sync(table.Skeleton())
					}
					for _, part := range Split(u.Elements, 1+d.IntN(40)) {
						w.change(part)
						checkBetween(t, w, f, before, all)
					}
					clear(w.sets[setAffinity])
					check(t, w, f, all)
					if c := table.Compare(w.list()); len(c) > 0 {
						t.Fatalf("the kernel differs: %v", c)
					}
					if d.IntN(5) == 0 && table.Prune() {
						w.sync(table.Skeleton())
						check(t, w, f, all)
					}
					if d.IntN(5) == 0 {
						table = restart(t, w, f, all)
					}
				}
			})
		}
	}
}

// restart returns a table that knows nothing but the Services and the kernel.
func restart(t *testing.T, w *world, f family, all map[int]*service.Service) *Table {
	t.Helper()
	table := New(f.config)
	table.Adopt(w.planElements())
	u := table.Reset(slices.Collect(maps.Values(all)), w.list())
	if size(u.Elements) > 0 {
		t.Fatalf("a restart writes %d elements", size(u.Elements))
	}
	w.sync(table.Skeleton())
	return table
}

func TestStaleAndWrongEntriesAreRepaired(t *testing.T) {
	f := families()[0]
	w, table := newWorld(t, f.config), New(f.config)
	sticky := f.frontend("10.96.0.2:80", "10.1.1.2:8080", "10.1.2.2:8080")
	sticky.Affinity = time.Hour
	w.apply(table, table.Set(changes(svc("gone", f.frontend("10.96.0.9:80", "10.1.1.3:8080")), svc("stays", f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080"), sticky))))
	want := map[string]map[string]string{}
	clean := New(f.config)
	other := newWorld(t, f.config)
	stays := svc("stays", f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080"), sticky)
	other.apply(clean, clean.Set(changes(stays)))
	for _, set := range BulkSets() {
		want[set] = other.sets[set]
		for k := range w.sets[set] {
			if w.sets[set][k] != "" && rand.IntN(2) == 0 {
				w.sets[set][k] = "another" // by somebody else
			} else if rand.IntN(3) == 0 {
				delete(w.sets[set], k)
			}
		}
	}
	// The daemon that comes back finds one Service gone, and much of the other wrong.
	table = New(f.config)
	table.Adopt(w.planElements())
	u := table.Reset([]*service.Service{stays}, w.list())
	w.apply(table, u)
	for _, set := range []string{setServices, setHairpin, setClusterIPs} {
		if d := cmp.Diff(want[set], w.sets[set]); d != "" {
			t.Errorf("%s: %s", set, d)
		}
	}
	check(t, w, f, map[int]*service.Service{0: stays})
	if c := table.Compare(w.list()); len(c) > 0 {
		t.Errorf("still different: %v", c)
	}
	if r := w.trace(packet{src: f.at(localPod), dst: f.at("10.96.0.9:80"), proto: 6}); r.verdict != "drop" {
		t.Errorf("a Service that is gone: %v", r)
	}
	for k := range w.sets[setEndpoints] {
		delete(w.sets[setEndpoints], k)
		break
	}
	if c := table.Compare(w.list()); size(c) != 1 || c[0].Set != setEndpoints {
		t.Errorf("one entry is missing: %v", c)
	}
}

func TestOrderOfServicesDoesNotMatter(t *testing.T) {
	f := families()[1]
	d := dice{rand.New(rand.NewPCG(1, 2)), f}
	var all []*service.Service
	for i := range 40 {
		all = append(all, d.service(i))
	}
	tables := map[string]kernel.Table{}
	var first map[string]map[string]string
	for _, name := range []string{"in order", "shuffled", "one by one"} {
		w, table := newWorld(t, f.config), New(f.config)
		if name == "in order" {
			w.apply(table, table.Reset(all, &Listing{}))
		} else {
			d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for part := range slices.Chunk(all, map[string]int{"shuffled": 40, "one by one": 1}[name]) {
				w.apply(table, table.Set(changes(part...)))
			}
		}
		tables[name] = table.Skeleton()
		if first == nil {
			first = w.sets
		}
		if diff := cmp.Diff(first, w.sets); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(tables["in order"], tables[name], equateAddrs); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestLittleIsWritten(t *testing.T) {
	f := families()[0]
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("10.1.2.%d:8080", i+1)
	}
	key := store.ObjectName{Namespace: "ns", Name: "it"}
	step := func(t *testing.T, w *world, table *Table, s *service.Service, want int) {
		t.Helper()
		w.writes = 0
		w.apply(table, table.Set([]Change{{key, s}}))
		if w.writes != want {
			t.Errorf("%d elements are written, want %d", w.writes, want)
		}
	}
	w, table := newWorld(t, f.config), New(f.config)
	step(t, w, table, svc("it", f.frontend("10.96.0.1:80", names...)), 102)
	step(t, w, table, svc("it", f.frontend("10.96.0.1:80", names...)), 0)
	step(t, w, table, svc("it", f.frontend("10.96.0.1:80", names[1:]...)), 5) // the last slot, the hole twice, the plan's number twice
	step(t, w, table, svc("it", f.frontend("10.96.0.1:80", names...)), 3)     // a slot, the plan's number twice
	step(t, w, table, svc("it", f.frontend("10.96.0.1:80")), 102)
	step(t, w, table, nil, 2)
	if table.Prune(); len(table.plans)+len(table.numbers) > 0 {
		t.Errorf("plans are left: %v", table.plans)
	}
	for set, entries := range w.sets {
		if len(entries) > 0 {
			t.Errorf("set %s still has %d entries", set, len(entries))
		}
	}
}

// TestAddressesOfSeveralServices: an endpoint's entry stays as long as one Service has it.
func TestAddressesOfSeveralServices(t *testing.T) {
	f := families()[0]
	w, table := newWorld(t, f.config), New(f.config)
	hairpin := func(want int) {
		t.Helper()
		if have := len(w.sets[setHairpin]); have != want {
			t.Errorf("%d hairpin entries, want %d", have, want)
		}
	}
	w.apply(table, table.Set(changes(svc("a", f.frontend("10.96.0.1:80", "10.1.1.2:80"), f.frontend("10.96.0.1:81", "10.1.1.2:80")), svc("b", f.frontend("10.96.0.2:80", "10.1.1.2:80", "10.1.1.3:80")))))
	hairpin(2)
	w.apply(table, table.Set([]Change{{svc("b").Name, nil}}))
	hairpin(1)
	w.apply(table, table.Set(changes(svc("a", f.frontend("10.96.0.1:80", "10.1.1.2:80"), f.frontend("10.96.0.1:81", "10.1.2.2:80")))))
	hairpin(1)
	w.apply(table, table.Set(changes(svc("a", f.frontend("10.96.0.1:81", "10.1.2.2:80")))))
	hairpin(0)
	if len(w.sets[setClusterIPs]) != 1 {
		t.Errorf("addresses: %v", w.sets[setClusterIPs])
	}
}
