package health

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
)

// Metrics turns reports of syncs into metrics. It implements node.Observer. Labels are kinds of kernel objects only: the number of series
// does not grow with the cluster.
type Metrics struct {
	registry   *prometheus.Registry
	desired    *prometheus.GaugeVec
	programmed *prometheus.GaugeVec
	changes    *prometheus.CounterVec
	duration   prometheus.Histogram
	errors     prometheus.Counter
	peers      prometheus.Gauge
	rejected   prometheus.Gauge
}

// Registry is where others register figures of their own.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// NewMetrics returns the daemon's metrics with a registry of their own.
func NewMetrics(version, backend string) *Metrics {
	kind := []string{"kind"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		desired: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "twill_desired_entries",
			Help: "Kernel objects that the cluster's state asks for."}, kind),
		programmed: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "twill_programmed_entries",
			Help: "Desired kernel objects that the kernel holds, as far as is known."}, kind),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "twill_kernel_changes_total",
			Help: "Changes that the kernel accepted, deletions among them."}, kind),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "twill_sync_duration_seconds",
			Help: "Time that a sync took.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_sync_errors_total",
			Help: "Syncs that failed in part or as a whole."}),
		peers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "twill_peers",
			Help: "Peers that this node reaches."}),
		rejected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "twill_rejected_peers",
			Help: "Records and peers that were skipped because something is wrong with them."}),
	}
	m.registry.MustRegister(m.desired, m.programmed, m.changes, m.duration, m.errors, m.peers, m.rejected,
		buildInfo(version, backend),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for k := range kernel.NumKinds {
		m.changes.WithLabelValues(k.String())
	}
	return m
}

// follow adds the metrics that are read from the status when they are asked for.
func (m *Metrics) follow(status *node.Status) {
	m.registry.MustRegister(syncAge(status), ready(status))
}

func syncAge(status *node.Status) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "twill_sync_age_seconds",
		Help: "Time since the last good sync; -1 before the first. An idle node syncs every five to six minutes."}, func() float64 {
		last := status.LastSync()
		if last.IsZero() {
			return -1
		}
		return time.Since(last).Seconds()
	})
}

func ready(status *node.Status) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "twill_ready",
		Help: "1 while /readyz says yes, else 0."}, func() float64 {
		if status.Ready() != nil {
			return 0
		}
		return 1
	})
}

func buildInfo(version, backend string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "twill_build_info",
		Help:        "1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version(), "backend": backend}})
	info.Set(1)
	return info
}

// Synced records a sync.
func (m *Metrics) Synced(r node.Report) {
	m.duration.Observe(r.Duration.Seconds())
	if r.Err != nil {
		m.errors.Inc()
	}
	m.peers.Set(float64(r.Peers))
	m.rejected.Set(float64(r.Rejected))
	for k, c := range r.Result.Kinds {
		kind := kernel.Kind(k).String()
		m.desired.WithLabelValues(kind).Set(float64(c.Desired))
		m.programmed.WithLabelValues(kind).Set(float64(c.Programmed))
		m.changes.WithLabelValues(kind).Add(float64(c.Changes))
	}
}
