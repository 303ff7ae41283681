//go:build linux

package record

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
)

var (
	owner = kernel.PodOwner{ContainerID: "a", IfName: "eth0"}
	same  = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

func example() attach.Record {
	return attach.Record{Network: "net", ContainerID: "a", IfName: "eth0", Netns: "/ns", Pod: "ns/p", Bridge: "cni0", HostLink: "veth0", Shaper: "ifb0",
		PortMappings: []netconf.PortMapping{{Protocol: netconf.TCP, HostIP: netip.MustParseAddr("::1"), HostPort: 80, ContainerPort: 8080}}}
}

func begin(t *testing.T, s *Store, r attach.Record) attach.Entry {
	t.Helper()
	e, err := s.Begin(r)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestLifeOfARecord(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, "net")
	if _, found, err := s.Get(owner); found || err != nil {
		t.Fatalf("before: found %t, error %v", found, err)
	}
	r := example()
	e := begin(t, s, r)
	if _, _, err := s.Get(owner); !errors.Is(err, attach.ErrBusy) {
		t.Errorf("while the ADD runs: have error %v, want ErrBusy", err)
	}
	r.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")}
	if err := e.Update(r); err != nil {
		t.Fatal(err)
	}
	if s.Complete(owner) {
		t.Error("complete before Commit")
	}
	if err := e.Commit(); err != nil {
		t.Fatal(err)
	}
	e.Close()
	got, found, err := s.Get(owner)
	if err != nil || !found || !s.Complete(owner) {
		t.Fatalf("after: found %t, complete %t, error %v", found, s.Complete(owner), err)
	}
	if diff := cmp.Diff(r, got, same, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Begin(r); !errors.Is(err, attach.ErrExists) {
		t.Errorf("second ADD: have error %v, want ErrExists", err)
	}
	info, err := os.Stat(s.path(owner))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", info.Mode(), err)
	}
	for range 2 {
		if err := s.Remove(owner); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := os.ReadDir(s.dir); err != nil || len(files) > 0 {
		t.Errorf("left: %v, error %v", files, err)
	}
}

// The record of an ADD that was killed is found, with what its last whole line says.
func TestLeftBehind(t *testing.T) {
	s := Open(t.TempDir(), "net")
	r := example()
	e := begin(t, s, r)
	r.HostLink = "veth1"
	if err := e.Update(r); err != nil {
		t.Fatal(err)
	}
	e.Close() // as the kernel does for a dead process
	got, found, err := s.Get(owner)
	if err != nil || !found || got.HostLink != "veth1" || s.Complete(owner) {
		t.Fatalf("have %+v, found %t, complete %t, error %v", got, found, s.Complete(owner), err)
	}
	if _, err := s.Begin(r); !errors.Is(err, attach.ErrExists) {
		t.Errorf("second ADD: have error %v, want ErrExists", err)
	}
	if err := s.Remove(owner); err != nil {
		t.Fatal(err)
	}
	begin(t, s, r).Close()
}

func TestDamage(t *testing.T) {
	line := `{"network":"net","containerID":"a","ifName":"eth0","netns":"","bridge":"","hostLink":"veth0"}` + "\n"
	tests := []struct {
		name, content string
		hostLink      string // empty: an error
	}{
		{"empty", "", ""},
		{"cut short in the first line", line[:20], ""},
		{"cut short in the second line", line + line[:20], "veth0"},
		{"cut short between lines", line, "veth0"},
		{"no JSON", "x\n", ""},
		{"rubbish after", line + "x\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := Open(t.TempDir(), "net")
			begin(t, s, example()).Close()
			if err := os.WriteFile(s.path(owner)+pending, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			r, _, err := s.Get(owner)
			if test.hostLink == "" && (err == nil || !strings.Contains(err.Error(), s.path(owner))) {
				t.Errorf("have error %v, want one that names the file", err)
			}
			if test.hostLink != "" && (err != nil || r.HostLink != test.hostLink) {
				t.Errorf("have %+v, error %v", r, err)
			}
			all, listErr := s.List()
			if len(all) != 1 || all[0].Owner() != owner || (listErr != nil) != (test.hostLink == "") {
				t.Errorf("list: have %+v, error %v", all, listErr)
			}
		})
	}
}

func TestListIsSortedAndSkipsStrangers(t *testing.T) {
	s := Open(t.TempDir(), "net")
	if all, err := s.List(); all != nil || err != nil {
		t.Fatalf("without a directory: %v, %v", all, err)
	}
	for _, id := range []string{"c", "a", "b"} {
		r := example()
		r.ContainerID = id
		e := begin(t, s, r)
		if id == "b" {
			if err := e.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		e.Close()
	}
	if err := os.WriteFile(filepath.Join(s.dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ContainerID)
	}
	if err != nil || !slices.Equal(ids, []string{"a", "b", "c"}) {
		t.Errorf("have %v, error %v", ids, err)
	}
}

// A GC sees no ADD half-way, and an ADD waits for the GC.
func TestFreeze(t *testing.T) {
	s := Open(t.TempDir(), "net")
	release, err := s.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan attach.Entry)
	go func() {
		e, err := s.Begin(example())
		if err != nil {
			t.Error(err)
		}
		begun <- e
	}()
	select {
	case <-begun:
		t.Fatal("an ADD began during a GC")
	case <-time.After(20 * time.Millisecond):
	}
	release()
	e := <-begun
	frozen := make(chan func())
	go func() {
		release, err := s.Freeze()
		if err != nil {
			t.Error(err)
		}
		frozen <- release
	}()
	select {
	case <-frozen:
		t.Fatal("a GC began during an ADD")
	case <-time.After(20 * time.Millisecond):
	}
	e.Close()
	(<-frozen)()
}

func TestLongContainerID(t *testing.T) {
	s := Open(t.TempDir(), "net")
	r := example()
	r.ContainerID = strings.Repeat("x", 300)
	if _, err := s.Begin(r); err == nil {
		t.Error("a name that no file can have was accepted")
	}
	if _, found, err := s.Get(r.Owner()); found || err != nil {
		t.Errorf("found %t, error %v", found, err)
	}
	if err := s.Remove(r.Owner()); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"network":"n","containerID":"a","ifName":"eth0","portMappings":[{"protocol":"tcp","hostIP":"::1","hostPort":1,"containerPort":2}]}` + "\n{"))
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decode(data); err == nil && len(data) == 0 {
			t.Fatal("an empty record was accepted")
		}
	})
}
