package policy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/store"
)

const (
	// flawsSpread is the time over which the nodes of a cluster tell of a policy that none of them understands.
	flawsSpread = 20 * time.Second
	// flawsNamed is how many of them are named; the log has them all.
	flawsNamed = 5
)

// Flaws follows which policies, and what they select, are not understood, and hands on all that the source tells. Such a policy may have no
// effect at all, so it is said in the log, by a metric, and by what Amiss returns. It is a store.PolicySource; make it with NewFlaws.
type Flaws struct {
	source store.PolicySource
	log    *slog.Logger
	quiet  time.Duration // before Amiss tells

	mu    sync.Mutex
	now   []store.Reject
	since time.Time // when the first of them came
}

var _ store.PolicySource = (*Flaws)(nil)

// NewFlaws returns one that follows source, and registers its figure with to. jitter returns a random duration in [0, d).
func NewFlaws(source store.PolicySource, to prometheus.Registerer, log *slog.Logger, jitter func(d time.Duration) time.Duration) *Flaws {
	f := &Flaws{source: source, log: log, quiet: jitter(flawsSpread)}
	to.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "twill_policy_flawed_objects", Help: "Policies, and what they select, that are not understood, in full or in part."},
		func() float64 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return float64(len(f.now))
		}))
	return f
}

// WatchPolicies implements store.PolicySource.
func (f *Flaws) WatchPolicies(ctx context.Context, emit func(store.PolicyChanges)) error {
	return f.source.WatchPolicies(ctx, func(c store.PolicyChanges) {
		f.note(c.Flawed)
		emit(c)
	})
}

// note takes what is flawed now, and logs what is new of it.
func (f *Flaws) note(now []store.Reject) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := make(map[string]string, len(f.now))
	for _, r := range f.now {
		before[r.Key] = r.Err.Error()
	}
	if len(before) == 0 {
		f.since = time.Now()
	}
	for _, r := range now {
		if before[r.Key] != r.Err.Error() {
			f.log.Error("policy is not understood, in full or in part", "object", r.Key, "err", r.Err)
		}
		delete(before, r.Key)
	}
	for key := range before {
		f.log.Info("policy is understood, or gone", "object", key)
	}
	f.now = now
}

// Amiss returns a store.Trouble that names what is not understood, which a person has to mend; nil when all is. It says nothing in the first time, which
// differs from node to node.
func (f *Flaws) Amiss() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.now) == 0 || time.Since(f.since) < f.quiet {
		return nil
	}
	var all []string
	for _, r := range f.now[:min(len(f.now), flawsNamed)] {
		all = append(all, r.Key+": "+r.Err.Error())
	}
	if more := len(f.now) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more, which the log names", more))
	}
	return &store.Trouble{Reason: store.ReasonPolicyFlawed, Err: fmt.Errorf("not understood, and so not or not fully enforced: %s", strings.Join(all, "; "))}
}
