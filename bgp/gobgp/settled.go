package gobgp

import (
	"time"

	"github.com/twill-cni/twill/bgp"
)

const (
	// quiet is how long a neighbour that announces no End-of-RIB has to be silent to count as complete.
	quiet = time.Second
	// patience is for how long a neighbour is waited for that has no graceful restart.
	patience = 5 * time.Second
)

// waitFor is for how long Settled waits for a neighbour with these settings to come up, and then to end its announcements.
func waitFor(s bgp.Settings) time.Duration {
	if s.Graceful != nil && s.Graceful.StaleTime > 0 {
		return s.Graceful.StaleTime
	}
	return patience
}
