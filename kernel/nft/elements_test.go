package nft

import (
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// hostPorts is a table such as the CNI plugin keeps host ports in.
func hostPorts() kernel.Table {
	return kernel.Table{
		Family: kernel.FamilyInet, Name: "twill-hostports",
		Sets: []kernel.Set{
			{Name: "ports", Key: []kernel.Type{kernel.TypeInetProto, kernel.TypeInetService},
				Value: []kernel.Type{kernel.TypeIPv4Addr, kernel.TypeInetService}, Foreign: true},
			{Name: "ranges", Key: []kernel.Type{kernel.TypeIPv4Addr}, Interval: true, Foreign: true},
		},
		Chains: []kernel.Chain{{Name: "prerouting", Hook: &kernel.Hook{Type: "nat", Hook: "prerouting", Priority: -100}, Rules: []kernel.Rule{
			{Exprs: []kernel.Expr{kernel.DNAT{Fields: []kernel.Operand{kernel.FieldL4Proto, kernel.FieldDport}, Map: "ports"}}},
		}}},
	}
}

func port(n uint32, pod string) kernel.Element {
	return kernel.Element{Key: []kernel.Datum{number(6), number(n)}, Value: []kernel.Datum{addr(pod), number(80)}, Comment: "pod"}
}

func ports(elems ...kernel.Element) map[string][]kernel.Element {
	return map[string][]kernel.Element{"ports": elems}
}

func wantPorts(t *testing.T, h *Handle, want ...kernel.Element) {
	t.Helper()
	got, err := h.ListElements(kernel.FamilyInet, "twill-hostports", "ports")
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		want = []kernel.Element{}
	}
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Error(diff)
	}
}

func TestAddElements(t *testing.T) {
	tests := map[string]string{ // what there is before
		"nothing":           "",
		"empty table":       "add table inet twill-hostports",
		"set without rules": "add map inet twill-hostports ports { type inet_proto . inet_service : ipv4_addr . inet_service; }",
		"rules without set": "table inet twill-hostports { chain prerouting { type nat hook prerouting priority -100; accept; }; }",
		"other shape":       "table inet twill-hostports { set ports { type ipv4_addr; }; chain c { ip saddr @ports accept; }; }",
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			nftScript(t, strings.ReplaceAll("add table inet twill-hostports\n"+before, "; ", "\n"))
			if name == "nothing" {
				nft(t, "delete", "table", "inet", "twill-hostports")
			}
			err := h.AddElements(t.Context(), hostPorts(), ports(port(80, "10.5.1.7"), port(81, "10.5.1.8")))
			if name == "other shape" {
				if err == nil {
					t.Error("elements were added to a set of another shape")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantPorts(t, h, port(80, "10.5.1.7"), port(81, "10.5.1.8"))

			// The daemon makes what is missing besides, and keeps the elements.
			daemon, _ := openHere(t)
			syncTables(t, daemon, hostPorts())
			wantPorts(t, h, port(80, "10.5.1.7"), port(81, "10.5.1.8"))
			again, log := openHere(t)
			syncTables(t, again, hostPorts())
			wantWrites(t, log, 0)
		})
	}
}

func TestAddElementsConflicts(t *testing.T) {
	h, _ := open(t)
	add := func(elems ...kernel.Element) error { return h.AddElements(t.Context(), hostPorts(), ports(elems...)) }
	if err := add(port(80, "10.5.1.7")); err != nil {
		t.Fatal(err)
	}
	if err := add(port(80, "10.5.1.7")); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := add(port(79, "10.5.1.8"), port(80, "10.5.1.8"), port(81, "10.5.1.8")); !errors.Is(err, unix.EEXIST) {
		t.Errorf("another value: have %v, want EEXIST", err)
	}
	if err := add(port(82, "10.5.1.8"), port(82, "10.5.1.9")); err == nil {
		t.Error("one key was taken twice with different values")
	}
	wantPorts(t, h, port(80, "10.5.1.7"))
	ranges := map[string][]kernel.Element{"ranges": {elem(prefix("10.0.0.0/8"))}}
	if err := h.AddElements(t.Context(), hostPorts(), ranges); err != nil {
		t.Fatal(err)
	}
	ranges["ranges"] = []kernel.Element{elem(prefix("10.5.0.0/16"))}
	if err := h.AddElements(t.Context(), hostPorts(), ranges); !errors.Is(err, unix.EEXIST) {
		t.Errorf("overlap: have %v, want EEXIST", err)
	}
	if err := h.AddElements(t.Context(), hostPorts(), map[string][]kernel.Element{"none": nil}); err == nil {
		t.Error("a set that the skeleton does not have was taken")
	}
}

// TestAddElementsAtOnce has many plugins meet a host without the table.
func TestAddElementsAtOnce(t *testing.T) {
	h, _ := open(t)
	const plugins = 16
	handles := make([]*Handle, plugins)
	for i := range handles {
		handles[i], _ = openHere(t)
	}
	errs := make(chan error)
	var want []kernel.Element
	for i, plugin := range handles {
		e := port(uint32(1000+i), "10.5.1.7")
		want = append(want, e)
		go func() { errs <- plugin.AddElements(t.Context(), hostPorts(), ports(e)) }()
	}
	for range handles {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantPorts(t, h, want...)
	daemon, log := openHere(t)
	syncTables(t, daemon, hostPorts())
	wantWrites(t, log, 0) // each rule is there once
}

func TestDeleteElements(t *testing.T) {
	h, _ := open(t)
	del := func(elems ...kernel.Element) {
		t.Helper()
		if err := h.DeleteElements(t.Context(), kernel.FamilyInet, "twill-hostports", ports(elems...)); err != nil {
			t.Error(err)
		}
	}
	del(port(80, "10.5.1.7")) // no table
	if err := h.AddElements(t.Context(), hostPorts(), ports(port(80, "10.5.1.7"), port(81, "10.5.1.7"), port(82, "10.5.1.7"))); err != nil {
		t.Fatal(err)
	}
	del(port(81, "10.5.1.7"))
	wantPorts(t, h, port(80, "10.5.1.7"), port(82, "10.5.1.7"))
	del(port(79, "10.5.1.7"), port(81, "10.5.1.7"), port(82, "10.5.1.7")) // two of them missing
	wantPorts(t, h, port(80, "10.5.1.7"))
	del()
	if err := h.DeleteElements(t.Context(), kernel.FamilyInet, "twill-hostports", map[string][]kernel.Element{"none": {port(80, "10.5.1.7")}}); err != nil {
		t.Errorf("no such set: %v", err)
	}
	del(port(80, "10.9.9.9")) // the value does not count
	wantPorts(t, h)
}

func TestListElements(t *testing.T) {
	h, _ := open(t)
	syncTables(t, h, everything())
	for _, set := range everything().Sets {
		t.Run(set.Name, func(t *testing.T) {
			got, err := h.ListElements(kernel.FamilyInet, "twill-test", set.Name)
			if err != nil {
				t.Fatal(err)
			}
			// What was listed encodes to what was written, prefixes having become ranges.
			want, err := encodeSet(set)
			if err != nil {
				t.Fatal(err)
			}
			set.Elements = got
			listed, err := encodeSet(set)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.elements, listed.elements, cmp.AllowUnexported(elementKey{}, elementValue{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := h.ListElements(kernel.FamilyInet, "twill-test", "none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("have %v, want ENOENT", err)
	}
}

// BenchmarkAddElements is what host ports cost the CNI plugin: a socket, one element, and the socket closed.
func BenchmarkAddElements(b *testing.B) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	first, err := Open(log)
	if err != nil {
		b.Fatal(err)
	}
	defer first.Close()
	if err := first.AddElements(b.Context(), hostPorts(), ports(port(80, "10.5.1.7"))); err != nil {
		b.Fatal(err)
	}
	skeleton := hostPorts()
	var n uint32
	for b.Loop() {
		n++
		h, err := Open(log)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.AddElements(b.Context(), skeleton, ports(port(n%60000+100, "10.5.1.7"))); err != nil {
			b.Fatal(err)
		}
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSyncUnchanged is what a sync of an unchanged table of 10,000 elements costs.
func BenchmarkSyncUnchanged(b *testing.B) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	h, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	tables := []kernel.Table{everything(), manyElements(10_000)}
	tables[1].Name = "twill-many"
	for b.Loop() {
		if err := h.SyncTables(b.Context(), tables, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestElementForEveryKey removes from an interval set the element that matches what no other does. It is made without nft, which up to
// version 1.0.6 crashes on it.
func TestElementForEveryKey(t *testing.T) {
	h, _ := open(t)
	syncTables(t, h, everything())
	want := list(t)
	id := tableID{unix.NFPROTO_INET, "twill-test"}
	spec, _, err := h.setOf(id, "net4")
	if err != nil {
		t.Fatal(err)
	}
	somebody, _ := openHere(t)
	p := planner{id: id}
	p.elements(unix.NFT_MSG_NEWSETELEM, "net4", spec, map[elementKey]elementValue{{}: {}})
	if err := somebody.commit(id, 0, p.steps); err != nil {
		t.Fatal(err)
	}
	if have := list(t); have == want {
		t.Fatal("the element was not added")
	}
	elements, err := h.ListElements(kernel.FamilyInet, "twill-test", "net4")
	if err != nil || len(elements) != 4 {
		t.Errorf("listed %v (%v), want the 4 of ours", elements, err)
	}
	syncTables(t, h, everything())
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Error(diff)
	}
}
