package health

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/daemon/attachments"
)

// podMetrics count what is done for pods that are attached. It implements attachments.Observer.
type podMetrics struct {
	released prometheus.Counter
	ports    prometheus.Counter
	links    prometheus.Counter
}

// Attachments adds the metrics of attachments and returns what is to be told of them. count is asked with each scrape for the number of
// attachments, and must be cheap. It must be called once.
func (m *Metrics) Attachments(count func() (int, error)) attachments.Observer {
	p := podMetrics{
		released: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_attachments_released_total",
			Help: "Attachments of dead pods that were released because the runtime had not."}),
		ports: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_hostports_repaired_total",
			Help: "Host port elements that were put back or removed because somebody had changed them."}),
		links: prometheus.NewCounter(prometheus.CounterOpts{Name: "twill_pod_links_repaired_total",
			Help: "Host links of pods that were set up again because somebody had set them down."}),
	}
	m.registry.MustRegister(p.released, p.ports, p.links, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "twill_attachments",
		Help: "Attachments that the CNI plugin has a record of; -1 when that cannot be told."}, func() float64 {
		n, err := count()
		if err != nil {
			return -1
		}
		return float64(n)
	}))
	return p
}

// Released counts a dead pod that was released.
func (p podMetrics) Released() { p.released.Inc() }

// PortsRepaired counts elements of host ports.
func (p podMetrics) PortsRepaired(elements int) { p.ports.Add(float64(elements)) }

// LinkRepaired counts a link.
func (p podMetrics) LinkRepaired() { p.links.Inc() }
