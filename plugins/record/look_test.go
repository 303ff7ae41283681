//go:build linux

package record

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/plugins/attach"
)

func commit(t *testing.T, s *Store, r attach.Record) {
	t.Helper()
	e := begin(t, s, r)
	if err := e.Commit(); err != nil {
		t.Fatal(err)
	}
	e.Close()
}

func named(network, id string) attach.Record {
	r := example()
	r.Network, r.ContainerID = network, id
	return r
}

func TestLook(t *testing.T) {
	dir := t.TempDir()
	if seen, err := Look(dir); len(seen) > 0 || err != nil {
		t.Error(seen, err)
	}
	a, b := Open(dir, "a"), Open(dir, "b")
	commit(t, a, named("a", "complete"))
	running := begin(t, a, named("a", "running"))
	begin(t, b, named("b", "killed")).Close()
	commit(t, b, named("b", "leaving"))
	if err := b.Retire(named("b", "leaving").Owner()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"b/broken:eth0": "{", "b/stranger": "", "c": ""} {
		if err := os.WriteFile(filepath.Join(dir, "attachments", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range seen {
		got = append(got, fmt.Sprintf("%s %s complete=%t adding=%t damaged=%t", s.Network, s.Owner(), s.Complete, s.Adding, s.Damage != nil))
	}
	want := []string{
		"a complete/eth0 complete=true adding=false damaged=false",
		"a running/eth0 complete=false adding=true damaged=false",
		"b broken/eth0 complete=true adding=false damaged=true",
		"b killed/eth0 complete=false adding=false damaged=false",
		"b leaving/eth0 complete=false adding=false damaged=false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n, err := Count(dir); n != len(want) || err != nil {
		t.Error(n, err)
	}
	if _, ok, err := a.TryFreeze(); ok || err != nil {
		t.Errorf("frozen while an ADD runs: %t, %v", ok, err)
	}
	running.Close()
	release, ok, err := a.TryFreeze()
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	release()
}

// A record that is there all the time is seen, however often its name changes.
func TestLookMissesNothing(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, "net")
	for i := range 50 {
		commit(t, s, named("net", fmt.Sprint("p", i)))
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		path := s.path(named("net", "p7").Owner())
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Rename(path, path+pending); err != nil {
				t.Error(err)
			}
			if err := os.Rename(path+pending, path); err != nil {
				t.Error(err)
			}
		}
	})
	whole := 0
	for range 200 {
		seen, err := Look(dir)
		if err != nil {
			continue // it never held still
		}
		if whole++; len(seen) != 50 {
			t.Errorf("%d records seen, want 50", len(seen))
		}
	}
	close(stop)
	others.Wait()
	t.Logf("%d listings held still", whole)
}

func TestRetire(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, "net")
	if err := s.Retire(owner); err != nil {
		t.Error("without a record: ", err)
	}
	commit(t, s, example())
	for range 2 { // a DEL that is repeated
		if err := s.Retire(owner); err != nil {
			t.Fatal(err)
		}
		if s.Complete(owner) {
			t.Error("the record is complete after Retire")
		}
		if got, found, err := s.Get(owner); !found || err != nil || got.HostLink != example().HostLink {
			t.Error(got, found, err)
		}
	}
	if err := s.Remove(owner); err != nil {
		t.Fatal(err)
	}
	if n, err := Count(dir); n > 0 || err != nil {
		t.Error(n, err)
	}
}
