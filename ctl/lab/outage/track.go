package outage

import (
	"sync"
	"time"
)

// Outage is what became of the requests on a path in some window of time.
type Outage struct {
	Path
	Sent, Lost int
	Gap        time.Duration // the longest time without a packet that got through; 0 when none was lost
	Err        error         // why the last request that was lost was; nil when none was
}

// track is the history of one path.
type track struct {
	path Path

	mu       sync.Mutex
	requests []*request // in the order in which they were sent
}

type request struct {
	sent    time.Time
	settled bool  // err says what became of it
	err     error // nil: it was answered
}

func (t *track) send(now time.Time) *request {
	r := &request{sent: now}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, r)
	return r
}

func (t *track) settle(r *request, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.settled, r.err = true, err
}

// settled reports whether it is known what became of every request that was sent before the given time.
func (t *track) settled(before time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.requests {
		if r.sent.Before(before) && !r.settled {
			return false
		}
	}
	return true
}

// outage returns what became of the requests from since on and before until. A gap that began earlier or still lasts counts in
// full, as far as it is known.
func (t *track) outage(since, until time.Time) Outage {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := Outage{Path: t.path}
	var alive time.Time // when the last request was sent that got an answer, or the first that did not
	lost := false       // since alive, inside the window
	for _, r := range t.requests {
		inside := !r.sent.Before(since) && r.sent.Before(until)
		if inside {
			o.Sent++
		}
		if !inside && !r.sent.Before(until) && (!lost || !r.settled) {
			break
		}
		if alive.IsZero() {
			alive = r.sent
		}
		if r.err != nil && inside {
			o.Lost++
			o.Err, lost = r.err, true
		}
		if lost {
			o.Gap = max(o.Gap, r.sent.Sub(alive))
		}
		if r.err == nil {
			alive, lost = r.sent, false
		}
	}
	return o
}

// forget drops what was sent before since, but for the last request that was answered and what follows it: a gap that lasts began there.
func (t *track) forget(since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := 0
	for i, r := range t.requests {
		if !r.sent.Before(since) {
			break
		}
		if r.settled && r.err == nil {
			keep = i
		}
	}
	t.requests = append([]*request(nil), t.requests[keep:]...)
}
