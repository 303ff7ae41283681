package e2e

import (
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// Everybody reaches everybody with the first packet: the lab gives no grace after its daemons said that they are ready.
func TestMatrix(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			wantMatrix(t, up(t, lab.Options{Family: family, PodsPerNode: 2}))
		})
	}
}
