package proxy

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/twill-cni/twill/daemon/syncloop"
)

// health is how syncs go, and whether load balancers may send to the node.
type health struct {
	*syncloop.Progress
	timeout    time.Duration // for which a change may wait
	ineligible atomic.Bool   // load balancers are to send nothing to the node
}

func newHealth(timeout time.Duration, now func() time.Time) *health {
	return &health{Progress: syncloop.NewProgress(now), timeout: timeout}
}

// setEligible says whether the node is to get connections from load balancers.
func (h *health) setEligible(eligible bool) { h.ineligible.Store(!eligible) }

// Healthy reports whether no change waits longer than it may. As with kube-proxy, a proxy that waits for its source is healthy; one that
// the kernel refuses is not.
func (h *health) Healthy() bool { return h.answer().Healthy }

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

// answer returns the health as of now. Both families are written in one sync.
func (h *health) answer() healthAnswer {
	s := h.State()
	starting := s.Synced.IsZero() && s.Err == nil
	a := healthAnswer{LastUpdated: s.Synced, CurrentTime: s.Now, Healthy: starting || s.Waiting < h.timeout}
	if !s.Synced.IsZero() {
		of := familyHealth{s.Synced, a.Healthy}
		a.Status = map[string]familyHealth{"IPv4": of, "IPv6": of}
	}
	eligible := !h.ineligible.Load()
	a.NodeEligible = &eligible
	return a
}

// healthz answers whether load balancers may send to the node, livez whether the proxy works.
func (h *health) healthz(w http.ResponseWriter, _ *http.Request) {
	a := h.answer()
	a.write(w, a.Healthy && *a.NodeEligible)
}

func (h *health) livez(w http.ResponseWriter, _ *http.Request) {
	a := h.answer()
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
