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

// CountDrops registers twill_policy_drops_total, which is read from the kernel when it is asked for, and by the function that it returns (Options.CountDrops).
func CountDrops(to prometheus.Registerer, counters Counters) (read func(context.Context)) {
	r := &refused{
		counters: counters,
		desc:     prometheus.NewDesc("twill_policy_drops_total", "Packets that policies refused.", []string{"direction"}, nil),
		last:     map[string]uint64{},
		total:    map[string]uint64{},
	}
	to.MustRegister(r)
	return r.read
}

// Describe implements prometheus.Collector.
func (r *refused) Describe(to chan<- *prometheus.Desc) { to <- r.desc }

// Collect implements prometheus.Collector. What cannot be read is what it was.
func (r *refused) Collect(to chan<- prometheus.Metric) {
	r.read(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	for chain, direction := range refusals {
		to <- prometheus.MustNewConstMetric(r.desc, prometheus.CounterValue, float64(r.total[chain]), direction)
	}
}

// read adds what was counted since the last time.
func (r *refused) read(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	for chain := range refusals {
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
	}
}
