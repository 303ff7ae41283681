//go:build linux

package gauge

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are sums over all peers: their number does not grow with the cluster. Each peer's own figures are on the page.
type metrics struct {
	rtt    prometheus.Histogram
	probes *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		rtt: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "twill_peer_rtt_seconds",
			Help: "Round-trip times to other nodes by the way of pods' packets.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14)}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "twill_peer_probes_total",
			Help: "Questions to other nodes by the way of pods' packets: answered, refused (the node is reached, and does not measure) or lost."}, []string{"outcome"}),
	}
	for _, outcome := range []string{"answered", "refused", "lost"} {
		m.probes.WithLabelValues(outcome)
	}
	return m
}

func (m *metrics) took(o outcome) {
	outcome := "answered"
	switch {
	case o.rtt == 0:
		outcome = "lost"
	case o.refused:
		outcome = "refused"
	}
	m.probes.WithLabelValues(outcome).Inc()
	if o.rtt > 0 {
		m.rtt.Observe(o.rtt.Seconds())
	}
}

// The worst of all peers.
var (
	stateDesc = prometheus.NewDesc("twill_peers_measured", "Other nodes by how they are reached: up, down (no longer), silent (never so far) or unknown.", []string{"state"}, nil)
	lossDesc  = prometheus.NewDesc("twill_peer_worst_loss_ratio", "Share of the last 20 questions that the worst of the other nodes did not answer.", nil, nil)
	rttDesc   = prometheus.NewDesc("twill_peer_worst_rtt_seconds", "Median round-trip time of the node that answers slowest.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *Gauge) Describe(to chan<- *prometheus.Desc) {
	g.metrics.rtt.Describe(to)
	g.metrics.probes.Describe(to)
	to <- stateDesc
	to <- lossDesc
	to <- rttDesc
}

// Collect implements prometheus.Collector.
func (g *Gauge) Collect(to chan<- prometheus.Metric) {
	g.metrics.rtt.Collect(to)
	g.metrics.probes.Collect(to)
	states := map[State]int{Unknown: 0, Up: 0, Down: 0, Silent: 0}
	var worst sum
	var loss float64
	g.mu.Lock()
	for _, p := range g.peers {
		states[p.window.state()]++
		s := p.window.sum()
		worst.median, loss = max(worst.median, s.median), max(loss, s.loss())
	}
	g.mu.Unlock()
	for state, n := range states {
		to <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(n), string(state))
	}
	to <- prometheus.MustNewConstMetric(lossDesc, prometheus.GaugeValue, loss)
	to <- prometheus.MustNewConstMetric(rttDesc, prometheus.GaugeValue, worst.median.Seconds())
}
