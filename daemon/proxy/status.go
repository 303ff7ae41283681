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

	mu         sync.Mutex
	queued     time.Time // of the oldest change that is not in the kernel; zero: none waits
	synced     time.Time // of the last good sync; zero: none yet
	err        error     // of the last sync
	ineligible bool      // load balancers are to send nothing to the node
}

func newHealth(timeout time.Duration, now func() time.Time) *health {
	return &health{timeout: timeout, now: now}
}

// queue tells that a change waits. Whoever calls it has a sync follow.
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

// setEligible says whether the node is to get connections from load balancers.
func (h *health) setEligible(eligible bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ineligible = !eligible
}

// Healthy reports whether no change waits longer than it may. As with kube-proxy, a proxy that waits for its source is healthy; one that
// the kernel refuses is not.
func (h *health) Healthy() bool { return h.state().Healthy }

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

// healthAnswer has the form of kube-proxy's ProxyHealth (pkg/proxy/healthcheck/proxy_health.go).
type healthAnswer struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyHealth `json:"status,omitempty"`
}

type familyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// state returns the health as of now. Both families are written in one sync.
func (h *health) state() healthAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	starting := h.synced.IsZero() && h.err == nil
	a := healthAnswer{LastUpdated: h.synced, CurrentTime: now, Healthy: starting || h.queued.IsZero() || now.Sub(h.queued) < h.timeout}
	if !h.synced.IsZero() {
		of := familyHealth{h.synced, a.Healthy}
		a.Status = map[string]familyHealth{"IPv4": of, "IPv6": of}
	}
	eligible := !h.ineligible
	a.NodeEligible = &eligible
	return a
}

// healthz answers whether load balancers may send to the node, livez whether the proxy works.
func (h *health) healthz(w http.ResponseWriter, _ *http.Request) {
	a := h.state()
	a.write(w, a.Healthy && *a.NodeEligible)
}

func (h *health) livez(w http.ResponseWriter, _ *http.Request) {
	a := h.state()
	a.NodeEligible = nil
	a.write(w, a.Healthy)
}

func (a *healthAnswer) write(w http.ResponseWriter, good bool) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if good {
		a.LastUpdated = a.CurrentTime // up to now nothing has been waiting for too long
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if b, err := json.Marshal(a); err == nil {
		_, _ = w.Write(b) // the client may be gone
	}
}
