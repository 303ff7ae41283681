package e2e

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

var programs = []string{"twill", "twill-ipam", "twilld", "twillctl"}

// The programs need no file but themselves: no interpreter, no library.
func TestProgramsAreStatic(t *testing.T) {
	for _, name := range programs {
		f, err := elf.Open(filepath.Join(binDir, name))
		must(t, err)
		defer f.Close()
		libraries, err := f.ImportedLibraries()
		must(t, err)
		if len(libraries) > 0 {
			t.Errorf("%s needs %v", name, libraries)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s needs an interpreter", name)
			}
		}
		if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
			t.Errorf("%s is not stripped", name)
		}
		info, err := os.Stat(filepath.Join(binDir, name))
		must(t, err)
		t.Logf("%-10s %5.1f MB", name, float64(info.Size())/1e6)
	}
}

// image makes a directory that holds what the image of deploy/Dockerfile holds, and the directories that a runtime mounts over. It
// returns a function that writes a script which runs one of the programs inside, with scratch's flags.
func image(t *testing.T) func(flags, program string) (script string) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"usr/bin", "proc", "sys", "run"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, name := range programs {
		copyFile(t, filepath.Join(binDir, name), filepath.Join(root, "usr/bin", name))
	}
	launcher := filepath.Join(dir, "scratch")
	build := exec.Command("go", "build", "-o", launcher, "./testdata/scratch")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(flags, program string) string {
		script := filepath.Join(t.TempDir(), filepath.Base(program))
		text := fmt.Sprintf("#!/bin/sh\nexec %s %s %s %s \"$@\"\n", launcher, flags, root, program)
		must(t, os.WriteFile(script, []byte(text), 0o755))
		return script
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	must(t, err)
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(target, source)
	must(t, err)
	must(t, target.Close())
}

// Daemon and plugins work from a scratch image, and the daemon with the one capability that it needs with vxlan.
func TestScratchImage(t *testing.T) {
	t.Parallel()
	in := image(t)
	if out, err := exec.Command(in("", "/bin/sh")).CombinedOutput(); err == nil {
		t.Fatalf("there is a shell in the image: %s", out)
	}
	for _, family := range []lab.Family{lab.DualStack, lab.IPv6} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, lab.Options{Family: family})
			must(t, l.Up(t.Context()))
			for range 2 {
				n, err := l.AddNode(t.Context(), lab.NodeOptions{Program: in("--caps", "/usr/bin/twilld")})
				must(t, err)
				must(t, n.Ready(t.Context()))
				checkCapabilities(t, n)
				// The installed plugin is the image's; a runtime runs it with all capabilities, since it has to enter namespaces.
				if _, err := os.Stat(filepath.Join(n.CNIBinDir(), "twill")); err != nil {
					t.Error(err)
				}
				plugin := in("", filepath.Join(n.CNIBinDir(), "twill"))
				p, err := n.AddPod(t.Context(), lab.PodOptions{BinDirs: []string{filepath.Dir(plugin)}, CapabilityArgs: map[string]any{
					"portMappings": []any{mapping("tcp", 8080, 80)},
					"bandwidth":    map[string]any{"ingressRate": 1_000_000_000, "ingressBurst": 10_000_000, "egressRate": 1_000_000_000, "egressBurst": 10_000_000},
				}})
				must(t, err)
				must(t, p.Check(t.Context()))
			}
			wantMatrix(t, l)
			for _, n := range l.Nodes() {
				for _, p := range n.Pods() {
					must(t, p.Delete(t.Context()))
				}
				if left := traces(t, n); left != "" {
					t.Errorf("left on %s:\n%s", n.Name, left)
				}
				log, err := n.DaemonLog()
				must(t, err)
				if strings.Contains(log, "not permitted") || strings.Contains(log, "level=ERROR") {
					t.Errorf("%s: %s", n.Name, log)
				}
			}
		})
	}
}

// checkCapabilities checks what the kernel says of the daemon's process.
func checkCapabilities(t *testing.T, n *lab.Node) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.DaemonPID()))
	must(t, err)
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} { // bit 12: CAP_NET_ADMIN
		if !strings.Contains(string(status), set+":\t0000000000001000\n") {
			t.Errorf("the daemon has other capabilities than that one:\n%s", status)
		}
	}
}
