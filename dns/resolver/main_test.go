//go:build linux

package resolver

import (
	"os"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }
