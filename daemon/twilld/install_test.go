//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The plugins beside twilld are installed with nothing else around it: no datastore, no host files, no privileges over the kernel.
func TestInstall(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	from, err := os.MkdirTemp(filepath.Dir(self), "from") // a hard link stays on its file system
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(from) })
	must(t, os.Link(self, filepath.Join(from, "twilld")))
	to := filepath.Join(t.TempDir(), "opt", "cni", "bin")
	file := func(dir, name string) string { return filepath.Join(dir, name) }
	put := func(name, content string) { must(t, os.WriteFile(file(from, name), []byte(content), 0o755)) }
	nothing := filepath.Join(from, "file")
	put("file", "")
	for _, step := range []struct {
		name    string
		prepare func()
		dir     string
		code    int
		out     string
	}{
		{"without plugins", nil, to, 2, fmt.Sprintf("twilld: plugin twill is not beside twilld: stat %s: no such file or directory; put it there, "+
			"or give an empty cni-bin-dir to install none\n", file(from, "twill"))},
		{"into nothing", nil, "", 2, "twilld: flag --install and flag --cni-bin-dir: there is no directory to install into\n"},
		{"for the first time", func() { put("twill", "v1"); put("twill-ipam", "v1") }, to, 0,
			fmt.Sprintf("installed %s\ninstalled %s\n", file(to, "twill"), file(to, "twill-ipam"))},
		{"again", nil, to, 0, fmt.Sprintf("the plugins in %s are up to date\n", to)},
		{"a new version of one", func() { put("twill-ipam", "v2") }, to, 0, fmt.Sprintf("installed %s\n", file(to, "twill-ipam"))},
		{"where it cannot", nil, nothing, 1, fmt.Sprintf("twilld: install %s: mkdir %s: not a directory\n", file(nothing, "twill"), nothing)},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.prepare != nil {
				step.prepare()
			}
			cmd := exec.Command(file(from, "twilld"), "--install", "--cni-bin-dir="+step.dir, "--etcd-endpoints=unix:///none", "--run-dir=/none", "--sysctl-dir=/none")
			cmd.Env = []string{asDaemon + "=1"}
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(step.out, string(out)); diff != "" || cmd.ProcessState.ExitCode() != step.code {
				t.Errorf("exit code %d, want %d: %s", cmd.ProcessState.ExitCode(), step.code, diff)
			}
		})
	}
	for name, want := range map[string]string{"twill": "v1", "twill-ipam": "v2"} {
		if have, err := os.ReadFile(file(to, name)); err != nil || string(have) != want {
			t.Errorf("%s holds %q, %v; want %q", name, have, err, want)
		}
	}
}
