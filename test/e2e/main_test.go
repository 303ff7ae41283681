package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// Where the programs are; set by TestMain, absolute.
var (
	binDir   string // twill, twill-ipam, twilld, twillctl
	peersDir string // flannel, bridge, host-local, portmap ...
)

func TestMain(m *testing.M) {
	if err := findPrograms(); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	// A process that was killed a moment ago may still be on its way out.
	deadline := time.Now().Add(5 * time.Second)
	left := leftovers()
	for len(left) > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		left = leftovers()
	}
	if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left behind:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	os.Exit(code)
}

func findPrograms() error {
	if os.Geteuid() != 0 {
		return errors.New("the end-to-end tests make network namespaces: run them as root")
	}
	var err error
	if binDir, err = filepath.Abs(cmp.Or(os.Getenv("TWILL_BIN"), "../../bin")); err != nil {
		return err
	}
	if peersDir, err = filepath.Abs(cmp.Or(os.Getenv("TWILL_PEERS"), "../../.cache/peers")); err != nil {
		return err
	}
	for target, program := range map[string]string{"build": filepath.Join(binDir, "twilld"), "peers": filepath.Join(peersDir, "flannel")} {
		if _, err := os.Stat(program); err == nil {
			continue
		}
		build := exec.Command("make", "-C", "../..", target)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("make %s: %w", target, err)
		}
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("make %s did not build it: %w", target, err)
		}
	}
	return nil
}

// runName is how everything of this run on the machine begins.
var runName = fmt.Sprintf("e2e-%d-", os.Getpid())

var labs atomic.Int64

// newLab returns a lab that does not exist yet, with a name of its own and the programs under test. What exists of it is removed
// when the test ends; the daemons' logs are printed when it failed.
func newLab(t *testing.T, options lab.Options) *lab.Lab {
	t.Helper()
	options.Name = fmt.Sprintf("%s%d", runName, labs.Add(1))
	options.BinDir = cmp.Or(options.BinDir, binDir)
	l, err := lab.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logDaemons(t, l)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return l
}

// up makes a lab, by default with three nodes, and returns when its daemons are ready and its pods attached. There is no grace: from then
// on everybody reaches everybody.
func up(t *testing.T, options lab.Options) *lab.Lab {
	t.Helper()
	options.Nodes = cmp.Or(options.Nodes, 3)
	if options.NetworkConfig == nil && options.BackendConfig == nil && options.Networks == nil {
		options.NetworkConfig = networkConfig(cmp.Or(options.Family, lab.IPv4))
	}
	l := newLab(t, options)
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// networkConfig is what a lab stores by itself, save that nodes get subnets up to 10.244.149.0/24 and fd00:244:0:efff::/64: those above
// are for peers that tests make up.
func networkConfig(family lab.Family) json.RawMessage {
	config := map[string]any{"EnableIPv4": family.V4(), "EnableIPv6": family.V6(), "Backend": map[string]string{"Type": "vxlan"}}
	if family.V4() {
		config["Network"], config["SubnetMax"] = "10.244.0.0/16", "10.244.149.0"
	}
	if family.V6() {
		config["IPv6Network"], config["IPv6SubnetMax"] = "fd00:244::/48", "fd00:244:0:efff::"
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // of a map of strings
	}
	return text
}

// logDaemons prints the end of what the daemons said.
func logDaemons(t *testing.T, l *lab.Lab) {
	const most = 4000 // bytes of each
	for i, n := range l.Nodes() {
		if i == 4 {
			t.Log("and so on")
			return
		}
		text, err := n.DaemonLog()
		if err != nil {
			continue // it never ran
		}
		t.Logf("log of %s:\n%s", n.Name, text[max(0, len(text)-most):])
	}
}

// leftovers lists what this run has on the machine.
func leftovers() []string {
	var left []string
	for _, pattern := range []string{filepath.Join(netns.Dir, runName+"*"), "/run/twill-lab/" + runName + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			left = append(left, err.Error())
		}
		left = append(left, found...)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil {
		left = append(left, err.Error())
	} else {
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, runName) {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		left = append(left, err.Error())
	}
	for _, file := range commands {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), runName) {
			left = append(left, file+": "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return left
}
