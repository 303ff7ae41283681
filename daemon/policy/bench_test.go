package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/store"
)

// crowd are 10,000 pods of 100 nodes, all in namespace shop, with 200 policies; the pod web is this node's.
func crowd() []any {
	objects := []any{shop(), pod(thisNode, "web", "10.1.1.2", "role=web")}
	for i := range 10_000 {
		node, n := i/100, i%100
		objects = append(objects, pod(fmt.Sprintf("node-%d", node), fmt.Sprintf("pod-%d", i), netip.AddrFrom4([4]byte{10, 2, byte(node), byte(n + 2)}).String(), fmt.Sprintf("role=role-%d", i%50)))
	}
	for i := range 200 {
		role := fmt.Sprintf("role=role-%d", i%50)
		to := role
		if i < 10 {
			to = "role=web"
		}
		objects = append(objects, allow(fmt.Sprintf("policy-%d", i), to, role))
	}
	return objects
}

// BenchmarkQuestions measures how long what people ask in a large cluster takes, and for how long a sync that comes meanwhile waits for it: the median of the
// longest wait for each question.
func BenchmarkQuestions(b *testing.B) {
	r := newRig(b, kerneltest.NewTables())
	r.host.put(record("web", "10.1.1.2"))
	r.begin(crowd()...)
	r.settled()
	i := NewInspector(r.Enforcer, nil)
	ends := policy.Flow{Src: netip.MustParseAddr("10.2.7.9"), Dst: netip.MustParseAddr("10.1.1.2"), Protocol: store.TCP, Port: 80}
	for _, q := range []struct {
		name string
		ask  func() error
	}{
		{"verdict", func() error { _, err := r.verdict(b.Context(), filter.Flow{Flow: ends}); return err }},
		{"find", func() error {
			_, err := i.Find(b.Context(), store.ObjectName{Namespace: "shop", Name: "pod-707"})
			return err
		}},
		{"rules", func() error {
			_, err := i.Rules(b.Context(), store.ObjectName{Namespace: "shop", Name: "web"})
			return err
		}},
	} {
		b.Run(q.name, func(b *testing.B) {
			var waits []time.Duration
			for b.Loop() {
				waits = append(waits, longestWait(b, r, q.ask))
			}
			slices.Sort(waits)
			b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "µs-sync-waits")
		})
	}
}

// longestWait asks, and returns the longest time for which somebody who wants the Enforcer's state again and again had to wait for it.
func longestWait(b *testing.B, r *rig, ask func() error) (longest time.Duration) {
	answered, counted := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(counted)
		for {
			begin := time.Now()
			r.state.Lock()
			longest = max(longest, time.Since(begin))
			r.state.Unlock()
			select {
			case <-answered:
				return
			default:
			}
		}
	}()
	err := ask()
	close(answered)
	<-counted
	if err != nil {
		b.Fatal(err)
	}
	return longest
}
