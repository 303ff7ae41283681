package etcd

import (
	"context"
	"fmt"
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

// keepUp calls run again and again until ctx has ended or the store is closed; it returns why. run follows what until that breaks, and
// reports whether there was progress; as long as there is none, the pauses grow.
func (s *Store) keepUp(ctx context.Context, what string, run func(ctx context.Context) (progressed bool, err error)) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	var failed retry
	for {
		progressed, err := run(inner)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case s.ctx.Err() != nil:
			return fmt.Errorf("watch %s: %w", what, errClosed)
		}
		if progressed {
			failed.reset()
		}
		if failed.failures == 0 {
			s.log.Warn("a watch broke and is taken up again", "of", what, "err", err)
		} else {
			s.log.Debug("a watch cannot be taken up yet", "of", what, "err", err)
		}
		sleep(inner, failed.next())
	}
}
