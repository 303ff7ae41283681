//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A namespace counts as gone only when the path can be judged: in a container that does not see the host's namespaces nothing is released.
func TestNetnsGone(t *testing.T) {
	const self = "/proc/self/ns/net"
	var there unix.Stat_t
	if err := unix.Stat(self, &there); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain") // the file that a bind mount was on
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		path  string
		inode uint64
		gone  bool
	}{
		{"as it was", self, there.Ino, false},
		{"inode unknown", self, 0, false},
		{"another namespace", self, there.Ino + 1, true},
		{"no namespace any more", plain, 0, true},
		{"no namespace any more, inode known", plain, 4026531840, true},
		{"no such file", filepath.Join(dir, "none"), 0, true},
		{"no such directory", filepath.Join(dir, "none", "ns"), 0, false},
		{"below a file", filepath.Join(plain, "ns"), 0, true},
		{"process gone", "/proc/4194305/ns/net", 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := (*podHost)(nil).NetnsGone(tc.path, tc.inode); got != tc.gone {
				t.Errorf("gone is %t", got)
			}
		})
	}
}
