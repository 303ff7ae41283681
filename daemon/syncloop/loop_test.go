package syncloop

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A sync that fails is tried again after growing pauses, and told of once.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := New("Services", slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		var at []time.Duration
		l.Nudge()
		l.Run(ctx, func(context.Context) (time.Duration, error) {
			at = append(at, time.Since(begin))
			if len(at) < 10 {
				return 0, errors.New("out of memory")
			}
			if len(at) == 10 {
				l.Nudge()
				return time.Minute, nil
			}
			cancel()
			return 0, nil
		}, func() time.Duration { return time.Hour }, func() {})
		want := []time.Duration{0, 50, 150, 350, 750, 1550, 3150, 6350, 11350, 16350, 76350}
		for i, d := range at {
			if d != want[i]*time.Millisecond {
				t.Errorf("try %d came after %v, want %v", i, d, want[i]*time.Millisecond)
			}
		}
		if strings.Count(log.String(), "could not be programmed") != 1 || strings.Count(log.String(), "programmed again") != 1 {
			t.Error(log.String())
		}
	})
}

// Without a change there is a sync when the period is over, and only then.
func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("Services", slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		syncs, full := 0, 0
		l.Run(ctx, func(context.Context) (time.Duration, error) { syncs++; return 0, nil }, func() time.Duration { return time.Minute }, func() { full++; l.Nudge() })
		if syncs != 10 || full != 10 {
			t.Errorf("%d syncs and %d full ones in ten minutes", syncs, full)
		}
	})
}

// A change that comes while a sync runs is not in the kernel when that ends.
func TestProgress(t *testing.T) {
	now := time.Now()
	p := NewProgress(func() time.Time { return now })
	expect := func(what string, waiting time.Duration, err error, idle bool) {
		t.Helper()
		if s := p.State(); s.Waiting != waiting || s.Err != err || s.Idle() != idle {
			t.Errorf("%s: %+v", what, s)
		}
	}
	expect("at first", 0, nil, true)
	began := now
	now = now.Add(time.Second)
	p.Queue()
	now = now.Add(time.Second)
	p.Queue()
	p.Synced(began, nil)
	expect("the change came later", time.Second, nil, false)
	broken := errors.New("broken")
	p.Synced(now, broken)
	expect("failed", time.Second, broken, false)
	p.Synced(now, nil)
	expect("written", 0, nil, true)
	if !p.State().Synced.Equal(now) {
		t.Errorf("synced at %v", p.State().Synced)
	}
}
