package gobgp

import (
	"time"

	"github.com/twill-cni/twill/bgp"
)

const (
	// quiet is how long a neighbour that announces no End-of-RIB has to be silent to count as complete.
	quiet = time.Second
	// patience is for how long a neighbour is waited for where nothing is at stake: the kernel has no routes of an earlier run, or the neighbour
	// does not keep ours.
	patience = 5 * time.Second
)

// waitFor is for how long Settled waits for a neighbour with these settings to come up, and then to end its announcements.
func waitFor(s bgp.Settings, restarting bool) time.Duration {
	if restarting && s.Graceful != nil && s.Graceful.StaleTime > 0 {
		return s.Graceful.StaleTime
	}
	return patience
}
