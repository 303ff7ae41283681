package etcd

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second // an etcd that is back is used within this time
)

// retry counts failures in a row.
type retry struct{ failures int }

// next counts one more failure and returns how long to wait after it: twice as long each time, up to lastRetry, less up to a half
// at random, so that nodes that failed together do not come back together.
func (r *retry) next() time.Duration {
	d := min(firstRetry<<min(r.failures, 10), lastRetry)
	r.failures++
	return d/2 + rand.N(d/2)
}

func (r *retry) reset() { r.failures = 0 }

// sleep waits for d. It reports false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
