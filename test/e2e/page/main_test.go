package page

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binDir holds twill, twill-ipam, twilld and twillctl, chromium is the browser; both are set by TestMain.
var binDir, chromium string

// runName is how everything of this run on the machine begins.
var runName = fmt.Sprintf("pag-%d-", os.Getpid())

func TestMain(m *testing.M) {
	if err := findPrograms(); err != nil {
		log.Fatal(err)
	}
	os.Exit(m.Run())
}

func findPrograms() (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the end-to-end tests make network namespaces: run them as root")
	}
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if chromium, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("find a browser (test/setup.sh installs it): %w", err)
	}
	if binDir, err = filepath.Abs(cmp.Or(os.Getenv("TWILL_BIN"), "../../../bin")); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(binDir, "twilld")); err != nil {
		return fmt.Errorf("find the programs (make build builds them): %w", err)
	}
	return nil
}
