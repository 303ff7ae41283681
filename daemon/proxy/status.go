package proxy

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// health is when changes came and when they were in the kernel.
type health struct {
	timeout time.Duration // for which a change may wait
	now     func() time.Time

	mu      sync.Mutex
	started time.Time
	queued  time.Time // of the oldest change that is not in the kernel; zero: none waits
	synced  time.Time // of the last good sync; zero: none yet
	err     error     // of the last sync
}

func newHealth(timeout time.Duration, now func() time.Time) *health {
	return &health{timeout: timeout, now: now, started: now()}
}

// queue tells that a change waits.
func (h *health) queue() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queued.IsZero() {
		h.queued = h.now()
	}
}

// sync tells how a sync that began then went.
func (h *health) sync(began time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err = err; err != nil {
		return
	}
	h.synced = h.now()
	if !h.queued.After(began) {
		h.queued = time.Time{}
	}
}

// Healthy reports whether no change waits longer than it may. A proxy that has just started is healthy for as long.
func (h *health) Healthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since := h.queued
	if h.synced.IsZero() {
		since = h.started
	}
	return since.IsZero() || h.now().Sub(since) < h.timeout
}

// Synced reports whether the kernel holds what the source said at first.
func (h *health) Synced() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.synced.IsZero()
}

// Err returns the error of the last sync.
func (h *health) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// ServeHTTP answers as kube-proxy's /healthz and /livez do (pkg/proxy/healthcheck/proxy_health.go).
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := h.now()
	healthy := h.Healthy()
	h.mu.Lock()
	updated := h.synced
	h.mu.Unlock()
	if healthy {
		updated = now // nothing has been waiting for too long up to now
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	answer := map[string]any{"lastUpdated": updated.String(), "currentTime": now.String()}
	if r.URL.Path == "/healthz" {
		answer["nodeEligible"] = true
	}
	if b, err := json.Marshal(answer); err == nil {
		_, _ = w.Write(b) // the client may be gone
	}
}
