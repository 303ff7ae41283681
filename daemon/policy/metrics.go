package policy

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/policy/filter"
)

// Metrics are the figures of policies. The number of series does not grow with the cluster.
type Metrics struct {
	sync, full  prometheus.Histogram
	failures    prometheus.Counter
	lastSync    prometheus.Gauge
	programming prometheus.Histogram

	written, drift             prometheus.Counter
	cut, restored, cutFailures prometheus.Counter
	lost                       prometheus.Counter

	mu    sync.Mutex
	stats func() (s filter.Stats, policies int)
}

// NewMetrics registers the figures with to.
func NewMetrics(to prometheus.Registerer) *Metrics {
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16) // 0.5 ms to 16 s
	var all []prometheus.Collector
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		all = append(all, h)
		return h
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		all = append(all, g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		all = append(all, c)
		return c
	}
	m := &Metrics{
		sync:        histogram("twill_policy_sync_seconds", "Time of a sync of policies with the kernel."),
		full:        histogram("twill_policy_full_sync_seconds", "Time of a sync of policies that compares everything with the kernel."),
		failures:    counter("twill_policy_sync_failures_total", "Syncs of policies that failed."),
		lastSync:    gauge("twill_policy_last_sync_timestamp_seconds", "When the last successful sync of policies ended."),
		programming: histogram("twill_policy_programming_duration_seconds", "Time from the arrival of a change to its being in the kernel."),
		written:     counter("twill_policy_elements_written_total", "Elements that were added to the kernel's large sets, or removed."),
		drift:       counter("twill_policy_drift_total", "Notifications that somebody else changed the table of policies, or that notifications were lost."),
		cut:         counter("twill_policy_cut_flows_total", "Connections that were cut since policies no longer allow them."),
		restored:    counter("twill_policy_restored_flows_total", "Connections that were cut and are allowed again."),
		cutFailures: counter("twill_policy_cut_failures_total", "Attempts to look through the connections that failed."),
		lost:        counter("twill_policy_log_messages_lost_total", "Messages about refused packets that were lost on their way from the kernel."),
	}
	m.stats = func() (s filter.Stats, policies int) { return s, 0 }
	all = append(all,
		m.holding("twill_policy_policies", "NetworkPolicies and ClusterNetworkPolicies of the cluster.", func(_ filter.Stats, n int) int { return n }),
		m.holding("twill_policy_local_pods", "Addresses of this node's pods that the kernel has policies for.", func(s filter.Stats, _ int) int { return s.Locals }),
		m.holding("twill_policy_pods", "Addresses of pods of the cluster that policies of this node's pods tell apart.", func(s filter.Stats, _ int) int { return s.Pods }),
		m.holding("twill_policy_subjects", "Sets of policies that pods of this node have in a direction.", func(s filter.Stats, _ int) int { return s.Subjects }),
		m.holding("twill_policy_classes", "Sets of peers that policies of this node's pods tell apart.", func(s filter.Stats, _ int) int { return s.Classes }),
		m.holding("twill_policy_pairs", "Pairs of the two with something of their own open between them.", func(s filter.Stats, _ int) int { return s.Pairs }),
	)
	to.MustRegister(all...)
	return m
}

// synced tells of a sync that began then.
func (m *Metrics) synced(began time.Time, full bool, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	now := time.Now()
	d := now.Sub(began).Seconds()
	m.sync.Observe(d)
	if full {
		m.full.Observe(d)
	}
	m.lastSync.Set(float64(now.UnixNano()) / 1e9)
}

// follow has the figures of what the kernel holds read from stats when they are asked for.
func (m *Metrics) follow(stats func() (s filter.Stats, policies int)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats = stats
}

// holding is a figure of what the kernel holds.
func (m *Metrics) holding(name, help string, figure func(s filter.Stats, policies int) int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		return float64(figure(m.stats()))
	})
}
