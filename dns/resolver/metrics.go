//go:build linux

package resolver

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count a Server's answers.
type Metrics struct {
	answers   *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	truncated prometheus.Counter
	failures  prometheus.Counter
	entries   prometheus.Gauge
}

// NewMetrics registers the metrics of a Server.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "twill_dns_answers_total",
			Help: "Answers to clients, by where they came from (zone, cache, upstream, or refused) and code."}, []string{"from", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "twill_dns_answer_duration_seconds",
			Help:    "Time that an answer took, by where it came from.",
			Buckets: []float64{.00002, .00005, .0001, .0002, .0005, .001, .005, .02, .1, .5, 2, 5}}, []string{"from"}),
		truncated: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_dns_truncated_answers_total",
			Help: "Answers that did not fit, so that the client had to come back by TCP."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_dns_upstream_failures_total",
			Help: "Questions that no upstream answered."}),
		entries: prometheus.NewGauge(prometheus.GaugeOpts{Name: "twill_dns_cache_entries", Help: "Answers of upstreams that are remembered."}),
	}
	registry.MustRegister(m.answers, m.latency, m.truncated, m.failures, m.entries)
	return m
}

func (m *Metrics) answered(from string, resp *dns.Msg, took time.Duration) {
	m.answers.WithLabelValues(from, dns.RcodeToString[resp.Rcode]).Inc()
	m.latency.WithLabelValues(from).Observe(took.Seconds())
	if resp.Truncated {
		m.truncated.Inc()
	}
}

func (m *Metrics) failed()      { m.failures.Inc() }
func (m *Metrics) cached(n int) { m.entries.Set(float64(n)) }
