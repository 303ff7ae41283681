package harness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// NeedRoot returns an error when the tests do not run as root.
func NeedRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the end-to-end tests make network namespaces: run them as root")
	}
	return nil
}

// Folder returns the folder that an environment variable names, or else the usual one; absolute.
func Folder(variable, usual string) (string, error) {
	return filepath.Abs(cmp.Or(os.Getenv(variable), usual))
}

// Programs returns the folder of twill, twill-ipam, twilld and twillctl, absolute: TWILL_BIN, or bin in the repository, whose folder is root. It
// fails when they are not there, when the machine lacks one of the tools, and when the tests do not run as root.
func Programs(root string, tools ...string) (string, error) {
	if err := NeedRoot(); err != nil {
		return "", err
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("find what the tests use (test/setup.sh installs it): %w", err)
		}
	}
	folder, err := Folder("TWILL_BIN", filepath.Join(root, "bin"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(folder, "twilld")); err != nil {
		return "", fmt.Errorf("find the programs (make build builds them): %w", err)
	}
	return folder, nil
}

// RunName returns how everything of this run of a suite on the machine begins. Another run of the suite has another name.
func RunName(suite string) string { return fmt.Sprintf("%s-%d-", suite, os.Getpid()) }

var names atomic.Int64

// Unique returns a name that begins with a prefix and that no other call in this process returns.
func Unique(prefix string) string { return fmt.Sprintf("%s%d", prefix, names.Add(1)) }

// Run runs the tests and returns the exit code of the process. It is not 0 when they leave something behind, which left lists.
func Run(m *testing.M, left func() []string) int {
	code := m.Run()
	// A process that was killed a moment ago may still be on its way out.
	deadline := time.Now().Add(5 * time.Second)
	behind := left()
	for len(behind) > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		behind = left()
	}
	if len(behind) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left behind:\n\t%s\n", strings.Join(behind, "\n\t"))
		code = max(code, 1)
	}
	return code
}

// Left lists the namespaces, and the directories of labs, that a run has on the machine.
func Left(runName string) []string {
	var left []string
	for _, pattern := range []string{filepath.Join(netns.Dir, runName+"*"), "/run/twill-lab/" + runName + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			left = append(left, err.Error())
		}
		left = append(left, found...)
	}
	return left
}
