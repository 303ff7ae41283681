//go:build linux

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/twill-cni/twill/daemon/config"
)

// A password file that is empty while it is written, or gone, ends no session, and is said once.
func TestPasswordThatCannotBeReadStaysInUse(t *testing.T) {
	dir := t.TempDir()
	key, file := filepath.Join(dir, "key"), filepath.Join(dir, "bgp.yaml")
	must(t, os.WriteFile(file, []byte("passwordFile: "+key+"\n"), 0o600))
	var log strings.Builder
	r := &routing{cfg: &config.Config{BGPConfig: file, NodeName: "a"}, log: slog.New(slog.NewTextHandler(&log, nil))}
	read := func(why, want string, said int) {
		t.Helper()
		now, err := r.read()
		must(t, err)
		if got, _ := now.passwords.Lookup(key); got != want {
			t.Errorf("%s: the password is %q, want %q", why, got, want)
		}
		if got := strings.Count(log.String(), "cannot be read"); got != said {
			t.Errorf("%s: said %d times, want %d:\n%s", why, got, said, &log)
		}
		if again, err := r.read(); err != nil || !reflect.DeepEqual(now, again) {
			t.Errorf("%s: read again, it is another: %v, %v", why, again, err)
		}
		r.inputs = now
	}
	read("missing at the start", "", 1)
	must(t, os.WriteFile(key, []byte("first\n"), 0o600))
	read("there", "first", 1)
	must(t, os.WriteFile(key, nil, 0o600))
	read("empty", "first", 2)
	read("still empty", "first", 2)
	must(t, os.Remove(key))
	read("gone", "first", 3)
	must(t, os.WriteFile(key, []byte("second\n"), 0o600))
	read("another", "second", 3)
}
