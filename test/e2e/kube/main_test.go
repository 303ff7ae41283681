package kube

import (
	"fmt"
	"os"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

func TestMain(m *testing.M) {
	kubetest.Init()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make machines: run them as root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
