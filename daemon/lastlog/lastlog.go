// Package lastlog keeps the last lines of a daemon's log in memory, so that they can be asked for wherever the log itself goes.
package lastlog

import (
	"bytes"
	"sync"
)

// Ring is a writer that keeps the last bytes written to it. Its methods may be called concurrently. Make it with New.
type Ring struct {
	most int

	mu  sync.Mutex
	buf []byte
}

// New makes a Ring that keeps up to most bytes, and twice as many for a moment.
func New(most int) *Ring { return &Ring{most: most} }

// Write implements io.Writer. It never fails.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, p[max(0, len(p)-r.most):]...)
	if len(r.buf) > 2*r.most {
		r.buf = append([]byte(nil), r.buf[len(r.buf)-r.most:]...)
	}
	return len(p), nil
}

// Last returns the last lines, whole ones.
func (r *Ring) Last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.buf) <= r.most {
		return string(r.buf)
	}
	last := r.buf[len(r.buf)-r.most:]
	if at := bytes.IndexByte(last, '\n'); at >= 0 {
		last = last[at+1:]
	}
	return string(last)
}
