package policy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel/conntrack"
)

const (
	// lookAgain is when connections are looked at for a second time after a change. A connection is listed once its first packet has left the host
	// (nf_conntrack_confirm), but policies are asked before: a packet that the old table has let through may wait behind a neighbour that has to be
	// resolved, in a queue or for the processor, and its connection be entered where the first look has already been.
	lookAgain = 200 * time.Millisecond

	// cutSpacing is the least time between two looks; a look that takes longer is followed by a pause as long as itself.
	cutSpacing = 20 * time.Millisecond

	// lookLast is when connections are looked at for the last time after a change: no packet that the old table has let through waits for longer than that. One
	// that waits for a neighbour does so for three seconds (neigh/default: mcast_solicit times retrans_time_ms).
	lookLast = 5 * time.Second

	// cutRetry is the pause after a look that failed.
	cutRetry = 500 * time.Millisecond
)

// cutter looks at the connections that are established when verdicts change, beside the syncs: a large table takes the kernel a while. Those that are
// no longer allowed get a mark that has their packets dropped in both directions; those that are allowed again lose it.
type cutter struct {
	conntrack Conntrack
	mark      uint32
	judge     func(context.Context) (decide func(conntrack.Flow) (cut, ok bool), certain func() error, err error)
	metrics   *Metrics
	log       *slog.Logger
	wake      chan struct{}         // of capacity 1
	later     chan struct{}         // likewise
	after     func(began time.Time) // called after each look that ended well

	mu          sync.Mutex
	begun, done uint64 // looks
}

func newCutter(opts *Options) *cutter {
	return &cutter{conntrack: opts.Conntrack, mark: opts.Table.CutMark, metrics: opts.Metrics, log: opts.Log, wake: make(chan struct{}, 1), later: make(chan struct{}, 1)}
}

// Cut has all connections looked at, soon. It returns the number of the first look that sees what the kernel holds now.
func (c *cutter) Cut() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	syncloop.Nudge(c.wake)
	return c.begun + 1
}

// CutLater has all connections looked at within twice lookLast, together with whatever else is asked for until then.
func (c *cutter) CutLater() { syncloop.Nudge(c.later) }

// Done reports whether the look with that number has ended well, or a later one.
func (c *cutter) Done(look uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done >= look
}

// Run looks when it is asked to, until ctx ends.
func (c *cutter) Run(ctx context.Context) {
	var again, last <-chan time.Time
	var changed time.Time // when it was asked to last
	for {
		first := false
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			first, changed = true, time.Now()
		case <-again:
			again = nil
		case <-c.later:
			if changed = time.Now(); last == nil {
				last = time.After(lookLast)
			}
			continue
		case <-last:
			last = nil
		}
		began := time.Now()
		err := c.look(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := max(cutSpacing, time.Since(began))
		switch {
		case errors.Is(err, errUncertain): // the sync that fails tells of it
			pause = cutRetry
			syncloop.Nudge(c.wake)
		case err != nil:
			c.metrics.cutFailures.Inc()
			c.log.Warn("connections that policies no longer allow may go on; trying again", "err", err)
			pause = cutRetry
			syncloop.Nudge(c.wake)
		case first:
			again = time.After(lookAgain)
		}
		if last == nil && began.Sub(changed) < lookLast {
			last = time.After(lookLast)
		}
		if !syncloop.Sleep(ctx, pause) {
			return
		}
	}
}

// look goes through the connections once.
func (c *cutter) look(ctx context.Context) error {
	began := time.Now()
	c.mu.Lock()
	c.begun++
	number := c.begun
	c.mu.Unlock()
	judge, certain, err := c.judge(ctx)
	if err != nil {
		return err
	}
	decide := func(f conntrack.Flow) (uint32, bool) {
		cut, ok := judge(f)
		switch {
		case !ok || cut == (f.Mark&c.mark != 0):
			return 0, false
		case cut:
			c.metrics.cut.Inc()
			return c.mark, true
		}
		c.metrics.restored.Inc()
		return 0, true
	}
	if _, err := c.conntrack.Remark(ctx, conntrack.Flows{Both: true}, c.mark, decide); err != nil {
		return err
	}
	if err := certain(); err != nil {
		return err
	}
	c.mu.Lock()
	c.done = number
	c.mu.Unlock()
	c.after(began)
	return nil
}
