package syncloop

import (
	"context"
	"log/slog"
	"time"
)

// After an error, a sync is tried again after the one, then twice the time, and so on to the other.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Loop calls a sync, one at a time. Make it with New.
type Loop struct {
	what string
	log  *slog.Logger
	wake chan struct{} // of capacity 1

	failed string // the error that was logged last
}

// New makes a loop. what is programmed, for the log: "Services".
func New(what string, log *slog.Logger) *Loop {
	return &Loop{what: what, log: log, wake: make(chan struct{}, 1)}
}

// Nudge has the sync run, soon.
func (l *Loop) Nudge() { Nudge(l.wake) }

// Nudge puts something into a channel of capacity 1, unless it is full: whoever reads it has not yet seen what happened before.
func Nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run calls sync after each Nudge until ctx ends, and waits after each for the pause that it returns. While sync fails it is called again, after growing
// pauses. full is called, on the same goroutine, whenever period is over: it says what is to be done beyond the usual, and nudges.
func (l *Loop) Run(ctx context.Context, sync func(context.Context) (pause time.Duration, err error), period func() time.Duration, full func()) {
	timer := time.NewTimer(period())
	defer timer.Stop()
	var delay time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
			timer.Reset(period())
			full()
			continue
		}
		pause, err := sync(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			delay = min(max(2*delay, retryFirst), retryMost)
			pause = delay
			l.Nudge()
		} else {
			delay = 0
		}
		l.tell(err)
		if !Sleep(ctx, pause) {
			return
		}
	}
}

// tell logs how a sync went, when that is news.
func (l *Loop) tell(err error) {
	switch {
	case err != nil && err.Error() != l.failed:
		l.failed = err.Error()
		l.log.Error(l.what+" could not be programmed; what the kernel holds stays, and it is tried until it works", "err", err)
	case err == nil && l.failed != "":
		l.failed = ""
		l.log.Info(l.what + " are programmed again")
	}
}

// Sleep waits for d. It reports whether the time is over before ctx has ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
