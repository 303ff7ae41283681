package policy

import (
	"os"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// Some of the tests write tables: in a network namespace of their own.
func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }
