package peertest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// FRR is a running zebra, bgpd and bfdd.
type FRR struct {
	t       testing.TB
	dir     string
	host    *Host
	daemons map[string]*process
}

// frrDirectory is where Debian has the daemons, which are not in PATH.
const frrDirectory = "/usr/lib/frr"

// StartFRR runs FRR's daemons in the foreground on a host, with a configuration for bgpd. The test's end kills them.
func StartFRR(t testing.TB, h *Host, conf string) *FRR {
	t.Helper()
	f := &FRR{t: t, dir: tempDir(t), host: h, daemons: make(map[string]*process)}
	must(t, "write bgpd.conf", os.WriteFile(filepath.Join(f.dir, "bgpd.conf"), []byte(conf), 0o644))
	for _, d := range []string{"zebra", "bfdd"} {
		must(t, "write configuration", os.WriteFile(filepath.Join(f.dir, d+".conf"), nil, 0o644))
	}
	f.own()
	for _, d := range []string{"zebra", "bfdd", "bgpd"} {
		f.Start(d)
	}
	return f
}

// own gives the directory to the user that the daemons become.
func (f *FRR) own() {
	f.t.Helper()
	u, err := user.Lookup("frr")
	must(f.t, "find FRR's user", err)
	uid, err := strconv.Atoi(u.Uid)
	must(f.t, "FRR's user", err)
	gid, err := strconv.Atoi(u.Gid)
	must(f.t, "FRR's group", err)
	must(f.t, "give directory to FRR", os.Chown(f.dir, uid, gid))
}

// Start starts a daemon, again after it was killed.
func (f *FRR) Start(daemon string) {
	f.t.Helper()
	args := []string{
		"-f", filepath.Join(f.dir, daemon+".conf"), "-i", filepath.Join(f.dir, daemon+".pid"), "-z", filepath.Join(f.dir, "zserv.api"),
		"--vty_socket", f.dir, "-P", "0", "--log", "stdout",
	}
	switch daemon {
	case "bfdd":
		args = append(args, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	case "zebra":
		args = append(args, "--v6-rr-semantics") // an IPv6 route is replaced, like one of IPv4, and not taken away for a moment
	}
	f.daemons[daemon] = startProcess(f.t, f.host.Command(context.Background(), filepath.Join(frrDirectory, daemon), args...))
	Eventually(f.t, daemon+" answers", 10*time.Second, func() bool {
		return exec.Command("vtysh", "--vty_socket", f.dir, "-d", daemon, "-c", "show version").Run() == nil
	})
}

// Kill ends a daemon without letting it say anything.
func (f *FRR) Kill(daemon string) { f.daemons[daemon].Kill() }

// Signal sends a signal to a daemon.
func (f *FRR) Signal(daemon string, s syscall.Signal) { f.daemons[daemon].Signal(s) }

// Ctl returns what vtysh prints for commands.
func (f *FRR) Ctl(commands ...string) string {
	f.t.Helper()
	args := []string{"--vty_socket", f.dir}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := exec.Command("vtysh", args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("vtysh %q: %v\n%s", commands, err, out)
	}
	return string(out)
}

// FRRPath is a path in FRR's table.
type FRRPath struct {
	Valid    bool
	BestPath struct{ Overall bool }
	Stale    bool
	ASPath   struct{ String string }
	NextHops []struct {
		IP   string
		Used bool
	}
	LocalPref   uint32 `json:"locPrf"`
	Community   struct{ String string }
	ClusterList struct{ List []string }
	Originator  string `json:"originatorId"`
}

// Paths returns what FRR knows of a prefix; family is ipv4 or ipv6.
func (f *FRR) Paths(family, prefix string) []FRRPath {
	f.t.Helper()
	var out struct{ Paths []FRRPath }
	text := f.Ctl("show bgp " + family + " unicast " + prefix + " json")
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		f.t.Fatalf("vtysh's paths of %s: %v\n%s", prefix, err, text)
	}
	return out.Paths
}

// Has reports whether FRR has a valid path to the prefix by way of the next hop.
func (f *FRR) Has(family, prefix, nextHop string) bool {
	f.t.Helper()
	for _, p := range f.Paths(family, prefix) {
		for _, h := range p.NextHops {
			if p.Valid && h.IP == nextHop {
				return true
			}
		}
	}
	return false
}

// Routes returns what zebra put into the host's kernel.
func (f *FRR) Routes() string {
	f.t.Helper()
	return f.host.Run("ip", "route", "show", "proto", "bgp") + f.host.Run("ip", "-6", "route", "show", "proto", "bgp")
}

// Monitor prints each change of the host's routes until the test ends.
func (f *FRR) Monitor() interface{ Output() string } {
	f.t.Helper()
	return startProcess(f.t, f.host.Command(context.Background(), "ip", "monitor", "route"))
}
