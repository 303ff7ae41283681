package health

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/bgp"
)

// BGP is what metrics are read from when they are asked for; *bgp.Backend is the real one.
type BGP interface {
	Counters() []bgp.SessionState
	Routes() []bgp.LearnedRoute
}

// FollowBGP adds the metrics of routing. The number of series grows with the node's own sessions, not with the cluster. It must be
// called at most once.
func (m *Metrics) FollowBGP(b BGP) { m.registry.MustRegister(routing{b}) }

// routing is a prometheus.Collector.
type routing struct{ BGP }

var (
	sessionLabels = []string{"peer", "address"}

	sessionUp = prometheus.NewDesc("twill_bgp_session_up",
		"1 while the session is Established, else 0.", sessionLabels, nil)
	sessionFlaps = prometheus.NewDesc("twill_bgp_session_flaps_total",
		"How many times the session left Established.", sessionLabels, nil)
	sessionRestarting = prometheus.NewDesc("twill_bgp_peer_restarting",
		"1 while the peer is gone and its routes are kept (graceful restart), else 0.", sessionLabels, nil)
	sessionBFD = prometheus.NewDesc("twill_bgp_bfd_up",
		"1 while BFD says Up, else 0; absent where BFD is off.", sessionLabels, nil)
	sessionPrefixes = prometheus.NewDesc("twill_bgp_prefixes",
		"Prefixes by what became of them: received from the peer, accepted of those, announced to the peer (where there are many, counted every few minutes).", []string{"peer", "address", "state"}, nil)
	sessionUpdates = prometheus.NewDesc("twill_bgp_updates_total",
		"UPDATE messages by direction, in or out.", []string{"peer", "address", "direction"}, nil)
	learnedRoutes = prometheus.NewDesc("twill_bgp_routes",
		"Routes that were chosen among what peers announced: all that were learned, and those of them that the kernel does not get.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (r routing) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sessionUp, sessionFlaps, sessionRestarting, sessionBFD, sessionPrefixes, sessionUpdates, learnedRoutes} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r routing) Collect(to chan<- prometheus.Metric) {
	for _, s := range r.Counters() {
		emit := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.Name, s.Address.String()}, labels...)...)
		}
		emit(sessionUp, prometheus.GaugeValue, oneIf(s.Established()))
		emit(sessionFlaps, prometheus.CounterValue, float64(s.Flaps))
		emit(sessionRestarting, prometheus.GaugeValue, oneIf(s.Restarted))
		if s.BFD != "" {
			emit(sessionBFD, prometheus.GaugeValue, oneIf(s.BFD == "Up"))
		}
		emit(sessionPrefixes, prometheus.GaugeValue, float64(s.Received), "received")
		emit(sessionPrefixes, prometheus.GaugeValue, float64(s.Accepted), "accepted")
		if s.Announced != bgp.NotCounted {
			emit(sessionPrefixes, prometheus.GaugeValue, float64(s.Announced), "announced")
		}
		emit(sessionUpdates, prometheus.CounterValue, float64(s.UpdatesIn), "in")
		emit(sessionUpdates, prometheus.CounterValue, float64(s.UpdatesOut), "out")
	}
	learned, refused := 0, 0
	for _, route := range r.Routes() {
		switch {
		case route.Local:
			continue
		case route.Refused != "":
			refused++
		}
		learned++
	}
	to <- prometheus.MustNewConstMetric(learnedRoutes, prometheus.GaugeValue, float64(learned), "learned")
	to <- prometheus.MustNewConstMetric(learnedRoutes, prometheus.GaugeValue, float64(refused), "refused")
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
