package nft

import (
	"errors"
	"log/slog"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

func TestReviseTable(t *testing.T) {
	want := ports(port(80, "10.5.1.7"), port(81, "10.5.1.8"))
	tests := map[string]struct{ before, injury string }{
		"nothing there":       {"", ""},
		"as it should be":     {"all", ""},
		"flushed rule set":    {"all", "flush ruleset"},
		"table deleted":       {"all", "delete table inet twill-hostports"},
		"chain flushed":       {"all", "flush chain inet twill-hostports prerouting"},
		"element deleted":     {"all", "delete element inet twill-hostports ports { tcp . 80 }"},
		"element too many":    {"all", "add element inet twill-hostports ports { tcp . 99 : 10.5.1.7 . 80 }"},
		"element leads wrong": {"all", "delete element inet twill-hostports ports { tcp . 80 }\nadd element inet twill-hostports ports { tcp . 80 : 10.5.1.9 . 80 }"},
		"map of another type": {"", "table inet twill-hostports {\nset ports {\ntype ipv4_addr\nelements = { 192.0.2.1 }\n}\n}"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			if tc.before != "" {
				if err := h.AddElements(t.Context(), hostPorts(), want); err != nil {
					t.Fatal(err)
				}
			}
			nftScript(t, "table ip foreign {\nchain c {\n}\n}")
			if tc.injury != "" {
				nftScript(t, tc.injury)
			}
			for round := range 2 {
				changed, err := h.ReviseTable(t.Context(), hostPorts(), func(map[string][]kernel.Element) (map[string][]kernel.Element, error) { return want, nil })
				if err != nil {
					t.Fatal(err)
				}
				if injured := tc.injury != "" || tc.before == ""; changed != (injured && round == 0) {
					t.Errorf("round %d: changed is %t", round, changed)
				}
			}
			wantPorts(t, h, want["ports"]...)
			if changed := syncCount(t, h); changed != 0 {
				t.Errorf("the skeleton was not whole: %d messages", changed)
			}
		})
	}
}

// syncCount returns whether a sync of the skeleton finds anything to do.
func syncCount(t *testing.T, h *Handle) int {
	t.Helper()
	before, err := generation(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	syncTables(t, h, hostPorts())
	after, err := generation(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	return int(after - before)
}

// What revise is shown is in the kernel at the commit: when somebody changes anything meanwhile, it is asked again.
func TestReviseTableMeetsOthers(t *testing.T) {
	h, _ := open(t)
	other, _ := openHere(t)
	if err := other.AddElements(t.Context(), hostPorts(), ports(port(80, "10.5.1.7"))); err != nil {
		t.Fatal(err)
	}
	var shown []int
	changed, err := h.ReviseTable(t.Context(), hostPorts(), func(have map[string][]kernel.Element) (map[string][]kernel.Element, error) {
		shown = append(shown, len(have["ports"]))
		if len(shown) == 1 { // a plugin adds a port
			if err := other.AddElements(t.Context(), hostPorts(), ports(port(81, "10.5.1.8"))); err != nil {
				return nil, err
			}
		}
		return ports(append(have["ports"], port(82, "10.5.1.9"))...), nil
	})
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if diff := cmp.Diff([]int{1, 2}, shown); diff != "" {
		t.Error(diff)
	}
	wantPorts(t, h, port(80, "10.5.1.7"), port(81, "10.5.1.8"), port(82, "10.5.1.9"))
}

func TestReviseTableLeavesAlone(t *testing.T) {
	h, _ := open(t)
	none := func(map[string][]kernel.Element) (map[string][]kernel.Element, error) { return nil, nil }
	if changed, err := h.ReviseTable(t.Context(), hostPorts(), none); changed || err != nil {
		t.Error(changed, err)
	}
	failed := errors.New("no records")
	_, err := h.ReviseTable(t.Context(), hostPorts(), func(map[string][]kernel.Element) (map[string][]kernel.Element, error) { return nil, failed })
	if !errors.Is(err, failed) {
		t.Error(err)
	}
	if names, err := h.TableNames(t.Context()); len(names) > 0 || err != nil {
		t.Error(names, err)
	}
}

// BenchmarkReviseTableUnchanged is what it costs to see that 250 host ports are as they should be.
func BenchmarkReviseTableUnchanged(b *testing.B) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	h, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	elems := map[string][]kernel.Element{}
	for i := range uint32(250) {
		elems["ports"] = append(elems["ports"], port(8000+i, "10.5.1.7"))
	}
	if err := h.AddElements(b.Context(), hostPorts(), elems); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		changed, err := h.ReviseTable(b.Context(), hostPorts(), func(map[string][]kernel.Element) (map[string][]kernel.Element, error) { return elems, nil })
		if changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}
