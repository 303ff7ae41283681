package policy

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/policy/gate"
)

// refusals are the chains that count what they drop, and why they do.
var refusals = map[string]string{
	gate.ChainRefuseEgress:  "egress",
	gate.ChainRefuseIngress: "ingress",
	gate.ChainRefuseUnknown: "unknown",
	gate.ChainRefuseCut:     "cut",
}

// countTimeout bounds how long a question for metrics waits for the kernel.
const countTimeout = 2 * time.Second

// Counters reads counters of rules; nft.Handle is the real one.
type Counters interface {
	Counters(ctx context.Context, family kernel.TableFamily, table string, chains ...string) ([]nft.RuleCount, error)
}

// refused is the metric of dropped packets. The kernel counts them all, of which only some are logged; its counters begin anew with a chain that is
// written anew, so what is told is the sum of what they grew.
type refused struct {
	counters Counters
	desc     *prometheus.Desc

	mu    sync.Mutex
	last  map[string]uint64 // by chain
	total map[string]uint64
}

// CountDrops registers twill_policy_drops_total, which is read from the kernel when it is asked for.
func CountDrops(to prometheus.Registerer, counters Counters) {
	to.MustRegister(&refused{
		counters: counters,
		desc:     prometheus.NewDesc("twill_policy_drops_total", "Packets that policies refused.", []string{"direction"}, nil),
		last:     map[string]uint64{},
		total:    map[string]uint64{},
	})
}

// Describe implements prometheus.Collector.
func (r *refused) Describe(to chan<- *prometheus.Desc) { to <- r.desc }

// Collect implements prometheus.Collector. What cannot be read is what it was.
func (r *refused) Collect(to chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	for chain, direction := range refusals {
		counts, err := r.counters.Counters(ctx, gate.Family, gate.TableName, chain)
		if err == nil {
			var now uint64
			for _, c := range counts {
				now += c.Packets
			}
			if now < r.last[chain] {
				r.last[chain] = 0
			}
			r.total[chain] += now - r.last[chain]
			r.last[chain] = now
		}
		to <- prometheus.MustNewConstMetric(r.desc, prometheus.CounterValue, float64(r.total[chain]), direction)
	}
}
