package connectivity

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binDir holds twill, twill-ipam, twilld and twillctl; set by TestMain, absolute.
var binDir string

// runName is how everything of this run on the machine begins.
var runName = fmt.Sprintf("con-%d-", os.Getpid())

func TestMain(m *testing.M) {
	if err := findPrograms(); err != nil {
		log.Fatal(err)
	}
	os.Exit(m.Run())
}

func findPrograms() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the end-to-end tests make network namespaces: run them as root")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("find what the tests use (test/setup.sh installs it): %w", err)
		}
	}
	if binDir, err = filepath.Abs(cmp.Or(os.Getenv("TWILL_BIN"), "../../../bin")); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(binDir, "twillctl")); err != nil {
		return fmt.Errorf("find the programs (make build builds them): %w", err)
	}
	return nil
}
