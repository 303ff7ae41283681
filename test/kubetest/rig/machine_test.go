package rig

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// run runs a shell command on a machine and returns what it printed, without the end of the line.
func run(t testing.TB, m *kubetest.Machine, command string) string {
	t.Helper()
	out, err := m.Run(t.Context(), "sh", "-c", command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(out)
}

// TestMachinesAreApart has two machines of one name at a time: they share nothing with each other, or with the one that they run on, that
// they could change.
func TestMachinesAreApart(t *testing.T) {
	var machines []*kubetest.Machine
	for range 2 {
		machines = append(machines, kubetest.StartMachine(t, kubetest.MachineOptions{Name: "apart"}))
	}
	a, b := machines[0], machines[1]
	const file = "kubetest-apart"
	for _, dir := range []string{"/", "/etc", "/etc/cni/net.d", "/opt/cni/bin", "/run", "/run/netns", "/tmp", "/var/lib", "/var/run"} {
		name := strings.TrimSuffix(dir, "/") + "/" + file
		run(t, a, "echo a >"+name)
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s of a machine is there", name)
		}
		if out, err := b.Run(t.Context(), "cat", name); err == nil {
			t.Errorf("%s of a machine is on another one: %s", name, out)
		}
	}
	for _, dir := range []string{"/usr", "/usr/bin", "/usr/local/bin", "/bin", "/lib"} {
		if _, err := a.Run(t.Context(), "touch", dir+"/"+file); err == nil {
			t.Errorf("%s can be written", dir)
		}
	}
	for _, setting := range []string{"net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic"} {
		name := "/proc/sys/" + setting
		before, err := os.ReadFile(name)
		must(t, err)
		run(t, a, "echo 1 >"+name)
		after, err := os.ReadFile(name)
		must(t, err)
		if string(before) != string(after) || run(t, a, "cat "+name) != "1" {
			t.Errorf("%s was %s, is %s", name, before, after)
		}
	}
	for command, want := range map[string]string{
		"uname -n":          "apart",
		"ls /sys/class/net": "eth0\nlo",
		"cat /proc/1/comm":  "exe",
		"ls /run/netns | grep -v " + file + "||:":                "",
		"grep -v ':/$' /proc/1/cgroup||:":                        "", // all groups are roots
		"ip route get 198.51.100.1 | head -1 | cut -d' ' -f 1-5": "198.51.100.1 via 192.0.2.1 dev eth0",
	} {
		if got := run(t, b, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// TestCommandsEnd has a command that goes on for ever.
func TestCommandsEnd(t *testing.T) {
	m := kubetest.StartMachine(t, kubetest.MachineOptions{Name: "a"})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := m.Run(ctx, "tail", "-f", "/etc/hosts"); err == nil {
		t.Error("it ended well")
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it went on for %v", took)
	}
	for run(t, m, "pidof tail ||:") != "" {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("its process is left")
		}
	}
}

func TestCrashAndBoot(t *testing.T) {
	m := kubetest.StartMachine(t, kubetest.MachineOptions{Name: "a"})
	run(t, m, "echo kept >/var/lib/kept; touch /run/lost; ip link add br0 type bridge")
	before := run(t, m, "ip -o addr show eth0 scope global; ip route; ip -6 route | grep default")
	for range 2 {
		must(t, m.Crash())
		must(t, m.Boot(t.Context()))
	}
	after := run(t, m, "ip -o addr show eth0 scope global; ip route; ip -6 route | grep default")
	if strip(after) != strip(before) {
		t.Errorf("the network is\n%s\nand was\n%s", after, before)
	}
	if got := run(t, m, "cat /var/lib/kept; ls /run/lost 2>&1; ip -o link show br0 2>&1; ctr version | grep -c Revision"); !strings.HasPrefix(got, "kept\n") ||
		!strings.Contains(got, "No such file") || !strings.Contains(got, "does not exist") {
		t.Errorf("after a crash: %s", got)
	}
}

// strip removes the numbers of links, which are given anew.
func strip(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(line, " ")
		lines = append(lines, strings.Join(strings.Fields(rest), " "))
	}
	return strings.Join(lines, "\n")
}
