package kube

import (
	"log"
	"os"
	"testing"

	"github.com/twill-cni/twill/test/e2e/harness"
	"github.com/twill-cni/twill/test/kubetest"
)

// must is harness.Must by the name that the tests use.
var must = harness.Must

func TestMain(m *testing.M) {
	kubetest.Init()
	if err := harness.NeedRoot(); err != nil {
		log.Fatal(err)
	}
	os.Exit(m.Run())
}
