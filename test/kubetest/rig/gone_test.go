package rig

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// A process, told from a later one with the same number by when it started.
type process struct {
	pid   int
	start string
}

// inhabitants returns the processes of a machine, whose first one has that number.
func inhabitants(t testing.TB, first int) []process {
	t.Helper()
	space := func(pid int) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil {
			return "" // it may have ended
		}
		return link
	}
	its := space(first)
	if its == "" || its == space(os.Getpid()) {
		t.Fatalf("process %d has no namespace of its own", first)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	var in []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		must(t, err)
		if space(pid) == its {
			in = append(in, process{pid, started(pid)})
		}
	}
	return in
}

// started returns when a process was started, or nothing when it has ended.
func started(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ") // the name may have spaces
	if fields := strings.Fields(rest); err == nil && ok && fields[0] != "Z" {
		return fields[19] // starttime of proc_pid_stat(5), whose third field is the first one here
	}
	return ""
}

func (p process) alive() bool { return started(p.pid) == p.start }

// traces returns what is left of a process's machines in the file system: directories, mounts and cgroups.
func traces(t testing.TB, pid int) []string {
	t.Helper()
	name := fmt.Sprintf(".%d-", pid) // behind the namespace of process IDs
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "kubetest-machine-*"+name+"*"))
	must(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "kubetest-machine-") && strings.Contains(line, name) {
			found = append(found, line)
		}
	}
	must(t, filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "kubetest-machine-") && strings.Contains(path, name) { // other groups come and go
			found = append(found, path)
		}
		return nil
	}))
	return found
}

func TestNothingIsLeft(t *testing.T) {
	u, err := kubetest.NewUnderlay()
	must(t, err)
	defer u.Close()
	m, err := kubetest.LaunchMachine(t.Context(), kubetest.MachineOptions{Name: "a", Underlay: u})
	must(t, err)
	its := inhabitants(t, m.PID())
	if len(its) < 2 || len(traces(t, os.Getpid())) == 0 {
		t.Error("this test sees nothing of a machine that runs")
	}
	must(t, m.Close())
	for _, p := range its {
		if p.alive() {
			t.Errorf("process %d is left behind", p.pid)
		}
	}
	for _, left := range traces(t, os.Getpid()) {
		t.Errorf("left behind: %s", left)
	}
}

func TestNothingIsLeftOfAFailure(t *testing.T) {
	u, err := kubetest.NewUnderlay()
	must(t, err)
	defer u.Close()
	for name, o := range map[string]kubetest.MachineOptions{
		"an archive that does not exist": {Archives: []string{"/nowhere"}},
		"no programs":                    {Programs: "/nowhere"},
		"an image of nothing":            {Images: []kubetest.Image{{Name: "nothing", Files: map[string]string{"/a": "/nowhere"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Name, o.Underlay = "a", u
			if m, err := kubetest.LaunchMachine(t.Context(), o); err == nil {
				must(t, m.Close())
				t.Error("it started")
			}
			for _, left := range traces(t, os.Getpid()) {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

const machineForParent = "KUBETEST_MACHINE"

// TestNothingIsLeftOfAKilledTest starts a machine in a process that is killed. What cannot go with it, directories and empty cgroups, the next
// machine removes.
func TestNothingIsLeftOfAKilledTest(t *testing.T) {
	if os.Getenv(machineForParent) != "" {
		u, err := kubetest.NewUnderlay()
		must(t, err)
		m, err := kubetest.LaunchMachine(context.Background(), kubetest.MachineOptions{Name: "a", Underlay: u})
		must(t, err)
		fmt.Printf("\npid %d\n", m.PID())
		select {}
	}
	child := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), machineForParent+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if number, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, err = strconv.Atoi(number)
			must(t, err)
		}
	}
	if pid == 0 {
		t.Fatal("the child started no machine")
	}
	its := inhabitants(t, pid)
	must(t, child.Process.Kill())
	_ = child.Wait() // it was killed
	for deadline := time.Now().Add(30 * time.Second); slices.ContainsFunc(its, process.alive); {
		if time.Now().After(deadline) {
			t.Fatalf("of the processes %v, some are left", its)
		}
	}
	u, err := kubetest.NewUnderlay()
	must(t, err)
	defer u.Close()
	m, err := kubetest.LaunchMachine(t.Context(), kubetest.MachineOptions{Name: "b", Underlay: u})
	must(t, err)
	defer func() { must(t, m.Close()) }()
	for _, left := range traces(t, child.Process.Pid) {
		t.Errorf("left behind: %s", left)
	}
}
