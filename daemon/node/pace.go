package node

import "time"

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second

	// Syncs start at least spacing apart, so that a burst of events costs a few syncs. When another program keeps undoing what is programmed, or
	// keeps changing the uplink or the default route, the spacing doubles up to spacingMost: that bounds what the quarrel costs and still
	// follows within a second.
	spacing     = 20 * time.Millisecond
	spacingMost = 400 * time.Millisecond
	calm        = time.Second // without any of these for so long, the spacing is the least again

	kernelMarks = markDrift | markUplink // what another program may cause without end

	resyncEvery  = 5 * time.Minute
	resyncJitter = time.Minute
)

// backoff yields growing delays between tries.
type backoff struct {
	jitter func(time.Duration) time.Duration
	delay  time.Duration
}

func (b *backoff) next() time.Duration {
	b.delay = min(max(2*b.delay, retryFirst), retryMost)
	return b.delay - b.jitter(b.delay/4)
}

func (b *backoff) reset() { b.delay = 0 }

// pacer says when the next sync may start.
type pacer struct {
	last time.Time // the start of the last sync
	told time.Time // the last sync for what the kernel told
	gap  time.Duration
}

// wait returns how long a sync that is wanted at now has to wait.
func (p *pacer) wait(now time.Time, what mark) time.Duration {
	gap := spacing
	if what&kernelMarks != 0 {
		gap = max(p.gap, spacing)
	}
	return max(0, p.last.Add(gap).Sub(now))
}

// started tells that a sync starts at now.
func (p *pacer) started(now time.Time, what mark) {
	p.last = now
	if what&kernelMarks == 0 {
		return
	}
	if now.Sub(p.told) > calm {
		p.gap = spacing
	} else {
		p.gap = min(2*p.gap, spacingMost)
	}
	p.told = now
}

// sleep waits for d; it reports false when done closes first.
func sleep(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return false
	case <-t.C:
		return true
	}
}
