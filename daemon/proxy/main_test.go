package proxy

import (
	"os"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// The tests listen, and write tables: in a network namespace of their own.
func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }
