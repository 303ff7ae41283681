package proxy

import (
	"log"
	"os"
	"testing"

	"github.com/twill-cni/twill/test/e2e/harness"
)

// binDir holds twill, twill-ipam, twilld and twillctl; set by TestMain, absolute.
var binDir string

// runName is how everything of this run on the machine begins.
var runName = harness.RunName("proxy")

// By the names that the tests use.
var (
	must   = harness.Must
	within = harness.Within
	sh     = harness.Shell
)

func TestMain(m *testing.M) {
	var err error
	if binDir, err = harness.Programs("../../..", "nft", "ip", "conntrack"); err != nil {
		log.Fatal(err)
	}
	os.Exit(harness.Run(m, func() []string { return harness.Left(runName) }))
}
