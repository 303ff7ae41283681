package proxy

import (
	"fmt"
	"os"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// The tests listen, and write tables: in a network namespace of their own.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		os.Exit(1)
	}
	os.Exit(peertest.Main(m))
}
