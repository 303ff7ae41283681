package filestore

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
)

// damages are ways in which the record of c1 can be spoilt without its names.
var damages = []struct {
	name  string
	spoil func(path string) error
}{
	{"empty", func(path string) error { return os.Truncate(path, 0) }},
	{"cut", func(path string) error { return os.Truncate(path, 30) }},
	{"noise", func(path string) error { return os.WriteFile(path, []byte("\x00\xff{]"), 0o600) }},
	{"huge", func(path string) error { return os.Truncate(path, 1<<30) }},
	{"another owner's content", func(path string) error {
		data, err := os.ReadFile(strings.Replace(path, "c1:", "c0:", 1))
		return errors.Join(err, os.WriteFile(path, data, 0o600))
	}},
	{"another address", func(path string) error {
		data, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(path, bytes.ReplaceAll(data, []byte("10.0.0.3/"), []byte("10.0.0.2/")), 0o600))
	}},
}

func TestDamagedRecords(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			var log bytes.Buffer
			setup := func() *Allocator {
				a := open4test(t, config(t, t.TempDir(), small, `[{"subnet":"fd00::/125"}]`), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				for i := range 3 {
					add(t, a, i)
				}
				if err := d.spoil(a.leasePath(own(1))); err != nil {
					t.Fatal(err)
				}
				return a
			}
			readable := d.name == "another address" // the content is sound by itself, only the names contradict it

			t.Run("others keep working and its address stays taken", func(t *testing.T) {
				a := setup()
				list, err := a.Leases()
				if !readable && (!errors.Is(err, ipam.ErrDamaged) || !strings.Contains(err.Error(), a.leasePath(own(1)))) {
					t.Errorf("error %v does not name the record", err)
				}
				if len(list) != 3 || !readable && addrs(list[1]) != "10.0.0.3 fd00::3" {
					t.Errorf("leases %v", list)
				}
				if l, err := a.Lookup(own(1)); err != nil || !readable && addrs(l) != "10.0.0.3 fd00::3" {
					t.Errorf("lookup: %v, error %v", l, err)
				}
				if !readable && !strings.Contains(log.String(), a.leasePath(own(1))) {
					t.Errorf("the log does not name the record: %s", log.String())
				}
				for _, i := range []int{10, 11} {
					add(t, a, i)
				}
				if l, err := tryAdd(a, 12); !errors.Is(err, ipam.ErrExhausted) {
					t.Errorf("got %v, error %v, want ErrExhausted", l, err)
				}
				if !del(t, a, 0) || !strings.HasPrefix(add(t, a, 12), "10.0.0.2 ") {
					t.Error("another lease's address was not the one to be had")
				}
			})
			t.Run("its owner can be released", func(t *testing.T) {
				a := setup()
				if !del(t, a, 1) || del(t, a, 1) {
					t.Error("want the first release to find the lease and the second none")
				}
				verify(t, a)
				if diff := cmp.Diff(map[string]string{"c0": "10.0.0.2 fd00::2", "c2": "10.0.0.4 fd00::4"}, leases(t, a)); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				fillUp(t, a, 5)
			})
			if readable {
				return
			}
			t.Run("its owner can allocate again", func(t *testing.T) {
				a := setup()
				if got := add(t, a, 1); got != "10.0.0.3 fd00::3" {
					t.Errorf("got %s", got)
				}
				verify(t, a)
			})
		})
	}
}

func TestNamesChangedByHand(t *testing.T) {
	tests := []struct {
		name   string
		change func(a *Allocator) error
		want   map[string]string
	}{
		{"lease removed", func(a *Allocator) error { return os.Remove(a.leasePath(own(1))) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c2": "10.0.0.4 fd00::4"}},
		{"claim removed", func(a *Allocator) error { return os.Remove(a.path("addresses", "10.0.0.3")) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
		{"all claims removed", func(a *Allocator) error { return os.RemoveAll(a.path("addresses")) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
		{"all leases removed", func(a *Allocator) error { return os.RemoveAll(a.path("leases")) }, map[string]string{}},
		{"tables removed", func(a *Allocator) error { return os.RemoveAll(a.path("slots")) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
		{"all removed", func(a *Allocator) error { return os.RemoveAll(a.dir) }, map[string]string{}},
		{"record replaced by a copy", func(a *Allocator) error { return replace(a.leasePath(own(1)), nil) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
		{"record replaced by noise", func(a *Allocator) error { return replace(a.leasePath(own(1)), []byte("noise")) },
			map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
		{"record copied under another owner's name", func(a *Allocator) error {
			data, err := os.ReadFile(a.leasePath(own(1)))
			return errors.Join(err, os.WriteFile(a.leasePath(own(1))+"9", data, 0o600), os.Remove(a.leasePath(own(1))+"9"))
		}, map[string]string{"c0": "10.0.0.2 fd00::2", "c1": "10.0.0.3 fd00::3", "c2": "10.0.0.4 fd00::4"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := open4test(t, config(t, t.TempDir(), small, `[{"subnet":"fd00::/125"}]`))
			for i := range 3 {
				add(t, a, i)
			}
			if err := tt.change(a); err != nil {
				t.Fatal(err)
			}
			add(t, a, 50) // works whatever was done
			if !del(t, a, 50) {
				t.Error("the lease made after the change is not found")
			}
			// A garbage collection repairs all of it.
			if _, err := a.Retain(t.Context(), []ipam.Owner{own(0), own(1), own(2)}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, leases(t, a)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			fillUp(t, a, 5)
		})
	}
}

// replace puts a new file of the given content, or of the same, in the place of path, as editors and sed -i do.
func replace(path string, data []byte) error {
	if data == nil {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	return errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path))
}

func TestOrphanOfUnknownOwnerStaysTaken(t *testing.T) {
	a := open4test(t, config(t, t.TempDir(), small))
	add(t, a, 1)
	if err := errors.Join(os.Remove(a.leasePath(own(1))), os.Truncate(a.path("addresses", "10.0.0.2"), 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !exists(a.path("addresses", "10.0.0.2")) {
		t.Error("an address whose owner cannot be told was freed")
	}
}
