//go:build linux

package record

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
)

// An interface may be called like another one with a suffix. Neither's record is taken for the other's, at any time.
func TestInterfaceNamesWithSuffix(t *testing.T) {
	for _, first := range []string{"eth0", "eth0.adding"} {
		t.Run(first+" first", func(t *testing.T) {
			dir := t.TempDir()
			s := Open(dir, "net")
			names := []string{"eth0", "eth0.adding"}
			if first != names[0] {
				names[0], names[1] = names[1], names[0]
			}
			for _, name := range names {
				r := example()
				r.IfName = name
				commit(t, s, r)
			}
			if err := s.Retire(kernel.PodOwner{ContainerID: "a", IfName: "eth0"}); err != nil {
				t.Fatal(err)
			}
			seen, err := Look(dir)
			if err != nil || len(seen) != 2 {
				t.Fatal(seen, err)
			}
			for _, have := range seen {
				if have.Complete != (have.IfName == "eth0.adding") {
					t.Errorf("%s is complete: %t", have.IfName, have.Complete)
				}
			}
			if err := s.Remove(kernel.PodOwner{ContainerID: "a", IfName: "eth0"}); err != nil {
				t.Fatal(err)
			}
			other := kernel.PodOwner{ContainerID: "a", IfName: "eth0.adding"}
			if r, found, err := s.Get(other); !found || err != nil || r.IfName != other.IfName {
				t.Errorf("the other interface's record: %+v, found %t, error %v", r, found, err)
			}
		})
	}
}

// What an older version's ADD left under its name for unfinished records is found and removed.
func TestOldName(t *testing.T) {
	whole := `{"network":"net","containerID":"a","ifName":"eth0","netns":"","bridge":"cni0","hostLink":"veth0"}` + "\n"
	tests := []struct{ name, content string }{{"whole", whole}, {"empty", ""}, {"damaged", "x"}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := Open(dir, "net")
			commit(t, s, named("net", "neighbour")) // makes the directory
			path := s.path(owner) + ".adding"
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}

			if _, err := s.Begin(example()); !errors.Is(err, attach.ErrExists) {
				t.Errorf("Begin: have error %v, want ErrExists", err)
			}
			r, found, err := s.Get(owner)
			if test.content == whole && (!found || err != nil || r.HostLink != "veth0") {
				t.Errorf("Get: %+v, found %t, error %v", r, found, err)
			}
			if test.content != whole && (err == nil || !strings.Contains(err.Error(), path)) {
				t.Errorf("Get: have error %v, want one that names the file", err)
			}
			if all, _ := s.List(); len(all) != 2 || all[0].Owner() != owner {
				t.Errorf("List: %+v", all)
			}
			seen, err := Look(dir)
			if err != nil || len(seen) != 2 || seen[0].Owner() != owner || seen[0].Complete || seen[0].Adding {
				t.Errorf("Look: %+v, error %v", seen, err)
			}
			if err := s.Remove(owner); err != nil {
				t.Fatal(err)
			}
			if n, err := Count(dir); n != 1 || err != nil {
				t.Errorf("%d records are left, error %v; want the neighbour's", n, err)
			}
			begin(t, s, example()).Close()
		})
	}
}

// An older version's ADD that runs while the programs are replaced is not taken for one that was killed.
func TestOldNameInUse(t *testing.T) {
	s := Open(t.TempDir(), "net")
	commit(t, s, named("net", "neighbour"))
	f, err := os.OpenFile(s.path(owner)+".adding", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(owner); !errors.Is(err, attach.ErrBusy) {
		t.Errorf("have error %v, want ErrBusy", err)
	}
}
