package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// outcome is what a program has printed and how it ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// twillctl runs the tool as a person would.
func twillctl(t *testing.T, args ...string) outcome {
	t.Helper()
	return finish(t, exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), args...))
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// wantOK checks for exit code 0.
func (o outcome) wantOK(t *testing.T) {
	t.Helper()
	if o.code != 0 {
		t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// freshName returns a lab's name that nobody has, and removes the lab of that name when the test ends.
func freshName(t *testing.T) string {
	t.Helper()
	name := harness.Unique(runName)
	t.Cleanup(func() {
		down := exec.Command(filepath.Join(binDir, "twillctl"), "lab", "down", "--name", name)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("remove lab %s: %v: %s", name, err, out)
		}
	})
	return name
}

// wantGone checks that nothing of a lab is on the machine: namespace, file, mount or process.
func wantGone(t *testing.T, name string) {
	t.Helper()
	var left []string
	for _, pattern := range []string{filepath.Join(netns.Dir, name+"-*"), "/run/twill-lab/" + name} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		left = append(left, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), "/"+name+"-") {
		left = append(left, "a mount")
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range commands {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte("/run/twill-lab/"+name+"/")) {
			left = append(left, file+" "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	if len(left) > 0 {
		t.Errorf("lab %s has left:\n%s", name, strings.Join(left, "\n"))
	}
}

// The demo: one command, a table, exit code 0, and a machine as it was.
func TestLabDemo(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"--ipv6"}, {"--dual-stack"}, {"--nodes=1", "--pods=1"}, {"--mtu=9000", `--backend-config={"VNI":7,"Port":4789}`}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			t.Parallel()
			name := freshName(t)
			began := time.Now()
			o := twillctl(t, append([]string{"lab", "--name", name}, flags...)...)
			o.wantOK(t)
			t.Logf("took %v", time.Since(began).Round(time.Millisecond))
			if !strings.Contains(o.stdout, "node1-pod1") || !strings.Contains(o.stdout, "nothing is wrong") || !strings.Contains(o.stderr, "removed lab "+name) {
				t.Errorf("it prints:\n%s%s", o.stdout, o.stderr)
			}
			if strings.Contains(o.stdout, "\x1b") || strings.Contains(o.stderr, "\x1b") {
				t.Error("it writes control sequences to what is no terminal")
			}
			wantGone(t, name)
		})
	}
}

// Interrupted at whatever moment, the lab is gone when the program has ended.
func TestLabInterrupted(t *testing.T) {
	t.Parallel()
	for i := range 12 {
		name := freshName(t)
		cmd := exec.Command(filepath.Join(binDir, "twillctl"), "lab", "--name", name, "--nodes=5")
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}[i%3]
		after := rand.N(900 * time.Millisecond)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Start())
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(signal) }) // it may have ended
		_ = cmd.Wait()
		timer.Stop()
		// Before it listens for signals it ends by the signal, and has made nothing.
		died := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
		if code := cmd.ProcessState.ExitCode(); code != 1 && code != 0 && !died {
			t.Errorf("%v after %v: %v\n%s", signal, after, cmd.ProcessState, stderr.String())
		}
		wantGone(t, name)
	}
}

// Killed without a chance to clean up, the lab is removed by down, or by the next of its name.
func TestLabKilled(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		name := freshName(t)
		cmd := exec.Command(filepath.Join(binDir, "twillctl"), "lab", "--name", name)
		must(t, cmd.Start())
		timer := time.AfterFunc(rand.N(500*time.Millisecond), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		again := outcome{code: -1}
		if i%2 == 0 {
			again = twillctl(t, "lab", "--name", name)
		}
		// A lab that was complete when its process was killed is a lab, and stays up until it is taken down.
		if i%2 != 0 || strings.Contains(again.stderr, "is up already") {
			again = twillctl(t, "lab", "down", "--name", name)
		}
		again.wantOK(t)
		wantGone(t, name)
	}
}

// A lab that cannot come up says why, exits with 1 and leaves nothing.
func TestLabFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string) // a directory of links to the programs
		flags []string
		names string
	}{
		{"a daemon that ends at once", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "twilld")))
			must(t, os.WriteFile(filepath.Join(dir, "twilld"), []byte("#!/bin/sh\necho spoilt >&2; exit 3\n"), 0o755))
		}, nil, "spoilt"},
		{"no plugin", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "twill"))) }, nil, "twill"},
		{"no daemon", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "twilld"))) }, nil, "twilld"},
		{"a plugin that fails", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "twill")))
			must(t, os.WriteFile(filepath.Join(dir, "twill"), []byte("#!/bin/sh\necho broken >&2; exit 3\n"), 0o755))
		}, nil, "broken"},
		{"a backend nobody knows", func(*testing.T, string) {}, []string{"--backend=udp"}, "udp"},
		{"a wrong VNI", func(*testing.T, string) {}, []string{`--backend-config={"VNI":99999999}`, "--timeout=2s"}, "VNI"},
		{"more pods than addresses", func(*testing.T, string) {}, []string{"--network=10.9.0.0/22", "--nodes=9", "--pods=0", "--timeout=2s"}, "10.9.0.0/22"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, program := range []string{"twill", "twill-ipam", "twilld", "twillctl"} {
				text, err := os.ReadFile(filepath.Join(binDir, program)) // a link would lead the daemon back to the whole directory
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, program), text, 0o755))
			}
			test.spoil(t, dir)
			name := freshName(t)
			o := twillctl(t, append([]string{"lab", "--name", name, "--bin-dir", dir}, test.flags...)...)
			if o.code != 1 || !strings.Contains(o.stderr, test.names) {
				t.Errorf("exit code %d; want 1 and an error that names %q:\n%s", o.code, test.names, o.stderr)
			}
			wantGone(t, name)
		})
	}
}

// Two labs do not see each other; a second one of the same name is refused.
func TestTwoLabs(t *testing.T) {
	t.Parallel()
	names := []string{freshName(t), freshName(t)}
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error {
			out, err := exec.Command(filepath.Join(binDir, "twillctl"), "lab", "up", "--name", name).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", name, err, out)
			}
			return nil
		})
	}
	must(t, g.Wait())
	if o := twillctl(t, "lab", "up", "--name", names[0]); o.code != 1 || !strings.Contains(o.stderr, lab.ErrExists.Error()) {
		t.Errorf("the same again: exit code %d: %s", o.code, o.stderr)
	}
	twillctl(t, "lab", "matrix", "--name", names[0]).wantOK(t)
	twillctl(t, "lab", "down", "--name", names[0]).wantOK(t)
	wantGone(t, names[0])
	twillctl(t, "lab", "matrix", "--name", names[1]).wantOK(t)
}

// The sub-commands, in the order in which the README uses them.
func TestLabCommands(t *testing.T) {
	t.Parallel()
	name := freshName(t)
	on := func(command string, args ...string) outcome {
		return twillctl(t, append([]string{"lab", command, "--name", name}, args...)...)
	}
	up := on("up", "--dual-stack", "--nodes=2", "--pods=1")
	up.wantOK(t)
	if !strings.Contains(up.stdout, "node2-pod1") {
		t.Errorf("up prints:\n%s", up.stdout)
	}

	var pods []struct {
		Name, Node, Namespace string
		Addresses             []string
	}
	decode(t, on("pods", "-o", "json"), &pods)
	if len(pods) != 2 || len(pods[1].Addresses) != 2 || pods[1].Namespace != filepath.Join(netns.Dir, name+"-node2-pod1") {
		t.Fatalf("pods: %+v", pods)
	}
	if o := on("exec", "node1-pod1", "--", "ip", "-br", "addr", "show", "eth0"); o.code != 0 || !strings.Contains(o.stdout, pods[0].Addresses[0]) {
		t.Errorf("exec: %+v", o)
	}
	if o := on("exec", "node1", "--", "sh", "-c", "exit 7"); o.code != 7 {
		t.Errorf("exec passes exit code %d on, want 7", o.code)
	}
	if o := on("exec", "nobody", "--", "true"); o.code != 1 || !strings.Contains(o.stderr, "node1-pod1") {
		t.Errorf("exec of an unknown member: %+v", o)
	}

	var matrix struct {
		Total, Failed int
		Probes        []struct {
			From, To, Address string
			Sent, Received    int
		}
	}
	decode(t, on("matrix", "-o", "json", "--count=2"), &matrix)
	// 2 pods to 1 other, 2 nodes to 2 pods, 2 pods to their gateway, in 2 families.
	if matrix.Total != 16 || matrix.Failed != 0 || len(matrix.Probes) != 16 || matrix.Probes[0].Received != 2 {
		t.Errorf("matrix: %+v", matrix)
	}

	var status struct {
		Name  string
		Nodes []struct {
			Name, Daemon string
			PID, Pods    int
		}
	}
	decode(t, on("status", "-o", "json"), &status)
	if status.Name != name || len(status.Nodes) != 2 || status.Nodes[0].Daemon != "ready" || status.Nodes[1].Pods != 1 {
		t.Errorf("status: %+v", status)
	}
	if o := twillctl(t, "lab", "status", "--all"); o.code != 0 || !strings.Contains(o.stdout, name) {
		t.Errorf("status --all: %+v", o)
	}

	// A path that does not work shows in the table and in the exit code.
	on("exec", "node2-pod1", "--", "ip", "link", "set", "eth0", "down").wantOK(t)
	if o := on("matrix", "--count=1", "--wait=100ms"); o.code != 1 || !strings.Contains(o.stdout, "node2-pod1") {
		t.Errorf("matrix with a broken pod: %+v", o)
	}
	on("down").wantOK(t)
	wantGone(t, name)
	on("down").wantOK(t)
	if o := on("status"); o.code != 1 {
		t.Errorf("status of no lab: %+v", o)
	}
}

func decode(t *testing.T, o outcome, value any) {
	t.Helper()
	o.wantOK(t)
	if err := json.Unmarshal([]byte(o.stdout), value); err != nil {
		t.Fatalf("%v in\n%s", err, o.stdout)
	}
}
