package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// Where the programs are; set by TestMain, absolute.
var (
	binDir   string // twill, twill-ipam, twilld, twillctl
	peersDir string // flannel, bridge, host-local, portmap ...
)

// runName is how everything of this run on the machine begins.
var runName = harness.RunName("e2e")

// By the names that the tests use.
var (
	must   = harness.Must
	within = harness.Within
	sh     = harness.Shell
	trySh  = harness.TryShell
)

func TestMain(m *testing.M) {
	if err := findPrograms(); err != nil {
		log.Fatal(err)
	}
	os.Exit(harness.Run(m, leftovers))
}

func findPrograms() error {
	err := harness.NeedRoot()
	if err != nil {
		return err
	}
	if binDir, err = harness.Folder("TWILL_BIN", "../../bin"); err != nil {
		return err
	}
	if peersDir, err = harness.Folder("TWILL_PEERS", "../../.cache/peers"); err != nil {
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

// newLab returns a lab that does not exist yet, with a name of its own and the programs under test; see harness.NewLab.
func newLab(t *testing.T, options lab.Options) *lab.Lab {
	t.Helper()
	options.Name = harness.Unique(runName)
	options.BinDir = cmp.Or(options.BinDir, binDir)
	return harness.NewLab(t, options)
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

// leftovers lists what this run has on the machine.
func leftovers() []string {
	left := harness.Left(runName)
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
