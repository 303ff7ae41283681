package page

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"testing"

	"github.com/twill-cni/twill/test/e2e/harness"
)

// binDir holds twill, twill-ipam, twilld and twillctl, chromium is the browser; both are set by TestMain.
var binDir, chromium string

// runName is how everything of this run on the machine begins.
var runName = harness.RunName("pag")

func TestMain(m *testing.M) {
	if err := findPrograms(); err != nil {
		log.Fatal(err)
	}
	os.Exit(m.Run())
}

func findPrograms() (err error) {
	if binDir, err = harness.Programs("../../.."); err != nil {
		return err
	}
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if chromium, err = exec.LookPath(name); err == nil {
			return nil
		}
	}
	return fmt.Errorf("find a browser (test/setup.sh installs it): %w", err)
}
