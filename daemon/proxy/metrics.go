package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the proxy's figures. Those whose meaning is that of kube-proxy's have kube-proxy's names, so that its charts and alerts go on
// working; the rest is named twill_proxy_*.
type Metrics struct {
	syncDuration, fullDuration, partialDuration prometheus.Histogram
	lastSync, lastQueued                        prometheus.Gauge
	failures                                    prometheus.Counter
	servicePending, endpointPending             prometheus.Gauge
	serviceChanges, endpointChanges             prometheus.Counter
	programming                                 prometheus.Histogram
	healthz, livez                              *prometheus.CounterVec

	services, frontends, endpoints prometheus.Gauge
	written, drift                 prometheus.Counter
	flushed, flushFailures         prometheus.Counter
}

// NewMetrics registers the figures with to.
func NewMetrics(to prometheus.Registerer) *Metrics {
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16) // 0.5 ms to 16 s
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	codes := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"code"})
	}
	m := &Metrics{
		syncDuration:    histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time of a sync with the kernel."),
		fullDuration:    histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time of a sync that compares everything with the kernel."),
		partialDuration: histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time of a sync of what changed."),
		lastSync:        gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last successful sync ended."),
		lastQueued:      gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for."),
		failures:        counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Syncs that failed."),
		servicePending:  gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that are not in the kernel yet."),
		endpointPending: gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not in the kernel yet."),
		serviceChanges:  counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services."),
		endpointChanges: counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
		programming:     histogram("twill_proxy_programming_duration_seconds", "Time from the arrival of a change to its being in the kernel."),
		healthz:         codes("kubeproxy_proxy_healthz_total", "Answers of /healthz by status code."),
		livez:           codes("kubeproxy_proxy_livez_total", "Answers of /livez by status code."),
		services:        gauge("twill_proxy_services", "Services that the kernel serves."),
		frontends:       gauge("twill_proxy_frontends", "Addresses and ports at which Services answer."),
		endpoints:       gauge("twill_proxy_endpoints", "Endpoints, counted once for each frontend."),
		written:         counter("twill_proxy_elements_written_total", "Elements that were added to the kernel's maps and sets, or removed."),
		drift:           counter("twill_proxy_drift_total", "Notifications that somebody else changed the proxy's tables, or that notifications were lost."),
		flushed:         counter("kubeproxy_conntrack_reconciler_deleted_entries_total", "Requests to remove stale conntrack entries that the kernel carried out."),
		flushFailures:   counter("twill_proxy_conntrack_failures_total", "Requests to remove stale conntrack entries that failed."),
	}
	to.MustRegister(m.syncDuration, m.fullDuration, m.partialDuration, m.lastSync, m.lastQueued, m.failures, m.servicePending, m.endpointPending,
		m.serviceChanges, m.endpointChanges, m.programming, m.healthz, m.livez, m.services, m.frontends, m.endpoints, m.written,
		m.drift, m.flushed, m.flushFailures)
	return m
}

// synced tells of a sync.
func (m *Metrics) synced(began, ended time.Time, full bool, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	d := ended.Sub(began).Seconds()
	m.syncDuration.Observe(d)
	if full {
		m.fullDuration.Observe(d)
	} else {
		m.partialDuration.Observe(d)
	}
	m.lastSync.Set(float64(ended.UnixNano()) / 1e9)
}
