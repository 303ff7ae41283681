package dnat

import (
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

// observe lists all of the world's sets, or with keys what is there of those.
func (w *world) observe(keys []SetKeys) *Observed {
	o := &Observed{}
	if keys == nil {
		for _, set := range BulkSets() {
			keys = append(keys, SetKeys{set, slices.Collect(maps.Keys(w.sets[set]))})
		}
	}
	for _, k := range keys {
		for _, key := range k.Keys {
			if value, ok := w.sets[k.Set][key]; ok {
				o.Add(k.Set, kernel.EntryState{Entry: kernel.Entry{Key: key, Value: value}, Packets: 3})
			}
		}
	}
	return o
}

func TestWhatIsRightHasNoDifferences(t *testing.T) {
	for _, f := range families() {
		d := dice{rand.New(rand.NewPCG(3, 4)), f}
		w, table := newWorld(t, f.config), New(f.config)
		for range 3 {
			for i := range 40 {
				w.apply(table, table.Set(changes(d.service(i))))
			}
			whole := table.Snapshot()
			if have := whole.Compare(w.observe(nil), nil); len(have) > 0 {
				t.Errorf("%s: %v", f.name, have)
			}
			for _, name := range whole.Names() {
				one := table.Snapshot(name)
				if have := one.Compare(w.observe(one.Keys()), nil); len(have) > 0 {
					t.Errorf("%s: %s alone: %v", f.name, name, have)
				}
			}
		}
	}
}

func TestDifferencesInWords(t *testing.T) {
	f := families()[0]
	sticky := f.frontend("10.96.0.2:53", "10.1.2.2:5353")
	sticky.Affinity = time.Hour
	number := func(n uint32) string { return string(kernel.AppendNumber(nil, n)) }
	at := func(to string, more ...uint32) string {
		b := appendKey(nil, f.key(to))
		for _, n := range more {
			b = kernel.AppendNumber(b, scratchBit|n)
		}
		return string(b)
	}
	addr := func(a string) string { return string(kernel.AppendAddr(nil, f.addr(a))) }
	target := func(to string) string {
		return string(kernel.AppendPort([]byte(addr(f.at(to).Addr().String())), f.at(to).Port()))
	}
	tests := map[string]struct {
		injury func(w *world)
		one    bool // shows when Service ns/it is looked at alone
		want   string
	}{
		"slot missing": {func(w *world) { delete(w.sets[setEndpoints], at("10.96.0.1:80", 1)) }, true,
			"endpoints: 10.96.0.1 tcp 80 slot 1: kernel has nothing, should be 10.1.2.3:8080"},
		"slot wrong": {func(w *world) { w.sets[setEndpoints][at("10.96.0.1:80", 0)] = target("10.9.9.9:99") }, true,
			"endpoints: 10.96.0.1 tcp 80 slot 0: kernel has 10.9.9.9:99, should be 10.1.1.2:8080"},
		"slot too many": {func(w *world) { w.sets[setEndpoints][at("10.96.0.1:80", 2)] = target("10.9.9.9:99") }, true,
			"endpoints: 10.96.0.1 tcp 80 slot 2: kernel has 10.9.9.9:99, should be nothing"},
		"slot far away": {func(w *world) { w.sets[setEndpoints][at("10.96.0.1:80", insideOffset+9)] = target("10.9.9.9:99") }, false,
			"endpoints: 10.96.0.1 tcp 80 inside slot 9: kernel has 10.9.9.9:99, should be nothing"},
		"slot of nobody": {func(w *world) { w.sets[setEndpoints][at("10.96.0.1:81", 0)] = target("10.9.9.9:99") }, false,
			"endpoints: 10.96.0.1 tcp 81 slot 0: kernel has 10.9.9.9:99, should be nothing"},
		"frontend missing": {func(w *world) { delete(w.sets[setServices], at("10.96.0.1:80")) }, true,
			"services: 10.96.0.1 tcp 80: kernel has nothing, should be random-2-offcluster"},
		"frontend wrong": {func(w *world) { w.sets[setServices][at("10.96.0.1:80")] = number(77) }, true,
			"services: 10.96.0.1 tcp 80: kernel has plan 77, which is unknown, should be random-2-offcluster"},
		"member missing": {func(w *world) { clear(w.sets[setMembers]) }, true,
			"members: 10.96.0.2 tcp 53 member 0xb6933403: kernel has nothing, should be 10.1.2.2:5353"},
		"slot of a member wrong": {func(w *world) { w.sets[setSlots][at("10.96.0.2:53", 0)] = number(9) }, true,
			"slots: 10.96.0.2 tcp 53 slot 0: kernel has member 0x9, should be member 0xb6933403"},
		"address missing": {func(w *world) { delete(w.sets[setClusterIPs], addr("10.96.0.1")) }, true,
			"cluster-addresses: 10.96.0.1: kernel has nothing, should be an entry"},
		"address too many": {func(w *world) { w.sets[setClusterIPs][addr("10.96.0.9")] = "" }, false,
			"cluster-addresses: 10.96.0.9: kernel has an entry, should be nothing"},
		"hairpin missing": {func(w *world) { clear(w.sets[setHairpin]) }, true,
			"hairpin: 10.1.1.2: kernel has nothing, should be an entry"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w, table := newWorld(t, f.config), New(f.config)
			w.apply(table, table.Set(changes(svc("it", f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.3:8080"), sticky),
				svc("other", f.frontend("10.96.0.3:80", "10.1.2.2:80")))))
			tc.injury(w)
			whole := table.Snapshot()
			have := whole.Compare(w.observe(nil), nil)
			if len(have) != 1 || have[0].String() != tc.want || have[0].Family != "ip" {
				t.Fatalf("have %v, want %s", have, tc.want)
			}
			if again := whole.Compare(w.observe(KeysOf(have)), have); len(again) != 1 || again[0] != have[0] {
				t.Errorf("looking there again, have %v", again)
			}
			one := table.Snapshot(store.ObjectName{Namespace: "ns", Name: "it"})
			if alone := one.Compare(w.observe(one.Keys()), nil); tc.one != (len(alone) == 1 && alone[0] == have[0]) {
				t.Errorf("of the Service alone, have %v", alone)
			}
		})
	}
}

func TestState(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			w, table := newWorld(t, f.config), New(f.config)
			guarded := f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.3:8080")
			guarded.Kind, guarded.PortName, guarded.Allowed = service.LoadBalancer, "web", []netip.Prefix{}
			sticky := f.frontend("10.96.0.2:53", "10.1.1.2:5353")
			sticky.Affinity, sticky.Kind = time.Hour, service.ExternalIP
			sticky.Inside = &service.Backends{Endpoints: f.backends("10.1.2.9:5353")}
			other := families()[1]
			if f.name == other.name {
				other = families()[0]
			}
			it := svc("it", guarded, sticky, other.frontend("10.96.0.5:80", "10.1.1.2:80"))
			it.Warnings = []string{"beware"}
			w.apply(table, table.Set(changes(it)))
			one := table.Snapshot(it.Name)
			if !one.HasAffinity() {
				t.Error("has no affinity")
			}
			o := w.observe(one.Keys())
			for n, member := range map[string]string{"203.0.113.9": "10.1.2.9:5353", "203.0.113.8": "10.9.9.9:1"} {
				value := string(kernel.AppendNumber(nil, 5))
				for key, endpoint := range w.sets[setMembers] {
					if endpointOf(endpoint, f.config.v6()) == f.at(member) {
						value = key[len(key)-4:]
					}
				}
				key := string(appendKey(kernel.AppendAddr(nil, f.addr(n)), sticky.FrontendKey))
				o.Add(AffinitySet, kernel.EntryState{Entry: kernel.Entry{Key: key, Value: value}, Expires: 90 * time.Second})
			}
			state, ok := one.State(it.Name, o)
			want := ServiceState{Namespace: "ns", Name: "it", Warnings: it.Warnings, Frontends: []FrontendState{
				{Address: f.addr("10.96.0.1"), Port: 80, Protocol: "TCP", Kind: "LoadBalancer", PortName: "web", Scheduler: "random", Masquerade: "off-cluster",
					SourceRanges: []netip.Prefix{}, Plan: "dropped", Hits: 3},
				{Address: f.addr("10.96.0.2"), Port: 53, Protocol: "TCP", Kind: "ExternalIP", Scheduler: "random", Masquerade: "off-cluster", Affinity: 3600,
					Plan: "random-1-offcluster-split-sticky-3600", InsidePlan: "random-1-inside-offnode-sticky-3600", Hits: 3, Endpoints: 2,
					Slots:       []SlotState{{0, f.at("10.1.1.2:5353"), true, 1}},
					InsideSlots: []SlotState{{0, f.at("10.1.2.9:5353"), false, 1}},
					Clients:     []ClientState{{Client: f.addr("203.0.113.8"), Left: 90}, {f.addr("203.0.113.9"), f.at("10.1.2.9:5353"), 90}}},
			}}
			if diff := cmp.Diff(want, state, equateAddrs); diff != "" || !ok {
				t.Error(diff)
			}
			if _, ok := one.State(store.ObjectName{Namespace: "ns", Name: "nobody"}, o); ok {
				t.Error("a Service that is not there has a state")
			}
		})
	}
}

// TestStateOfAWrongKernel shows what is there, not what should be.
func TestStateOfAWrongKernel(t *testing.T) {
	f := families()[0]
	w, table := newWorld(t, f.config), New(f.config)
	it := svc("it", f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.3:8080", "10.1.2.4:8080"))
	w.apply(table, table.Set(changes(it)))
	slot := func(n uint32) string {
		return string(kernel.AppendNumber(appendKey(nil, f.key("10.96.0.1:80")), slotNumber(int(n), false)))
	}
	delete(w.sets[setEndpoints], slot(1))
	w.sets[setEndpoints][slot(3)] = w.sets[setEndpoints][slot(0)][:4] + "\x00\x50\x00\x00"
	clear(w.sets[setServices])
	one := table.Snapshot(it.Name)
	state, _ := one.State(it.Name, w.observe(one.Keys()))
	want := []FrontendState{{Address: f.addr("10.96.0.1"), Port: 80, Protocol: "TCP", Kind: "ClusterIP", Scheduler: "random", Masquerade: "off-cluster", Endpoints: 3,
		Slots: []SlotState{{0, f.at("10.1.1.2:8080"), true, 1}, {1, netip.AddrPort{}, false, 0}, {2, f.at("10.1.2.4:8080"), false, 1}, {3, f.at("10.1.1.2:80"), false, 0}}}}
	if diff := cmp.Diff(want, state.Frontends, equateAddrs); diff != "" {
		t.Error(diff)
	}
}
