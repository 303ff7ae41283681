package policy

import (
	"cmp"
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

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// binDir holds twill, twill-ipam, twilld and twillctl; set by TestMain, absolute.
var binDir string

// runName is how everything of this run on the machine begins.
var runName = fmt.Sprintf("pol-%d-", os.Getpid())

var labs atomic.Int64

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
	for _, tool := range []string{"nft", "ip", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("find what the tests use (test/setup.sh installs it): %w", err)
		}
	}
	var err error
	if binDir, err = filepath.Abs(cmp.Or(os.Getenv("TWILL_BIN"), "../../../bin")); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(binDir, "twilld")); err != nil {
		return fmt.Errorf("find the programs (make build builds them): %w", err)
	}
	return nil
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
	return left
}
