package syncloop

import (
	"sync"
	"time"
)

// Progress is when changes came, and when they were in the kernel. It may be used concurrently. Make it with NewProgress.
type Progress struct {
	now func() time.Time

	mu     sync.Mutex
	queued time.Time // of the oldest change that is not in the kernel; zero: none waits
	synced time.Time // of the last good sync; zero: none yet
	err    error     // of the last sync
}

// NewProgress makes one, with the clock that it goes by.
func NewProgress(now func() time.Time) *Progress { return &Progress{now: now} }

// Queue tells that a change waits. Whoever calls it has a sync follow.
func (p *Progress) Queue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued.IsZero() {
		p.queued = p.now()
	}
}

// Synced tells how a sync that began then went.
func (p *Progress) Synced(began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err != nil {
		return
	}
	p.synced = p.now()
	if !p.queued.After(began) {
		p.queued = time.Time{}
	}
}

// State is Progress at one time.
type State struct {
	Now     time.Time
	Waiting time.Duration // of the oldest change; 0: none waits
	Synced  time.Time     // when the last good sync ended; zero: there was none
	Err     error         // of the last sync
}

// Idle reports whether nothing waits, and nothing is wrong.
func (s State) Idle() bool { return s.Waiting == 0 && s.Err == nil }

// State returns how things stand.
func (p *Progress) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{Now: p.now(), Synced: p.synced, Err: p.err}
	if !p.queued.IsZero() {
		s.Waiting = max(s.Now.Sub(p.queued), 1) // more than none, however coarse the clock is
	}
	return s
}
