package policy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

// Connections follow what policies allow, and what no pod of this node has a part in is left alone.
func TestCut(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), record("other", "10.1.1.3"))
	r.host.flows = []conntrack.Flow{
		flow(1, "10.1.2.2", "10.1.1.2:80"),
		flow(2, "10.1.2.3", "10.1.1.2:80"), // a stranger
		flow(3, "10.1.2.2", "10.1.1.2:81"),
		flow(4, "192.0.2.1", "10.1.1.2:81"), // the node
		flow(5, "10.1.1.1", "10.1.1.2:81"),  // the bridge
		flow(6, "10.1.1.2", "10.1.1.1:53"),  // to the node
		flow(7, "10.1.2.2", "10.1.2.3:80"),  // elsewhere
		flow(8, "fd00:1:2::2", "[fd00:1:1::2]:80"),
		flow(9, "fd00:1:2::9", "[fd00:1:1::2]:80"),
		flow(10, "10.1.1.3", "10.1.1.2:80"), // within the node
		flow(11, "10.1.1.9", "10.1.2.2:80"), // from an address that nobody has
		flow(12, "10.1.2.3", "10.1.1.3:22"), // a pod without policies
	}
	service := flow(13, "10.1.2.2", "10.96.0.1:443") // a Service, of which web answers on port 80
	service.Endpoint = flow(0, "10.1.2.2", "10.1.1.2:80").Dst
	r.host.flows = append(r.host.flows, service)
	r.begin(cluster()...)
	expect := func(want ...uint32) {
		t.Helper()
		r.until("the right connections to be cut", func() bool { return slices.Equal(want, r.host.cut()) })
	}
	expect(2, 3, 9, 10, 11)
	r.tell(pod("node-b", "stranger", "10.1.2.3", "role=client"), pod("node-b", "client", "10.1.2.2 fd00:1:2::2", "role=none"))
	expect(1, 3, 8, 9, 10, 11, 13)
	r.tell(gone{allow("web", "role=web", "role=client")})
	expect(11)
	if n := r.figure("twill_policy_restored_flows_total"); n == 0 {
		t.Error("restored connections are not counted")
	}
}

// A change is followed by a look at once, one soon, and one when nothing is on its way any more. Pods that come and go have the last one alone, and share it.
func TestLooks(t *testing.T) {
	const soon, late = lookAgain, lookLast
	tests := []struct {
		name   string
		change []time.Duration // when a verdict changes
		pods   []time.Duration // when pods come and go
		want   []time.Duration
	}{
		{"nothing", nil, nil, nil},
		{"a change", []time.Duration{1 * time.Second}, nil, []time.Duration{time.Second, time.Second + soon, time.Second + late}},
		{"a pod", nil, []time.Duration{time.Second}, []time.Duration{time.Second + late}},
		{"pods", nil, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, []time.Duration{time.Second + late, time.Second + 2*late}},
		{"a pod, and a change", []time.Duration{3 * time.Second}, []time.Duration{time.Second},
			[]time.Duration{3 * time.Second, 3*time.Second + soon, time.Second + late, time.Second + 2*late}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var have []time.Duration
				c := newCutter(&Options{Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler), Conntrack: Conntrack{
					Remark: func(context.Context, conntrack.Flows, uint32, func(conntrack.Flow) (uint32, bool)) (int, error) {
						return 0, nil
					}}})
				c.judge = func(context.Context) (func(conntrack.Flow) (cut, ok bool), func() error, error) {
					return nil, func() error { return nil }, nil
				}
				c.after = func(began time.Time) { have = append(have, began.Sub(begin)) }
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for _, at := range tt.change {
					time.AfterFunc(at, func() { c.Cut() })
				}
				for _, at := range tt.pods {
					time.AfterFunc(at, c.CutLater)
				}
				c.Run(ctx)
				if diff := cmp.Diff(tt.want, have); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// Connections that were being made during the first look are seen by a second one.
func TestSecondLook(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	passes := func() int { r.host.mu.Lock(); defer r.host.mu.Unlock(); return r.host.passes }
	r.until("both looks", func() bool { return passes() == 2 })
	r.tell(pod("node-b", "stranger", "10.1.2.3", "role=client"))
	r.until("the first look", func() bool { return passes() >= 3 })
	r.host.mu.Lock()
	r.host.flows = append(r.host.flows, flow(1, "10.1.2.9", "10.1.1.2:80"))
	r.host.mu.Unlock()
	r.until("the second look", func() bool { return len(r.host.cut()) == 1 })
}

func TestLookFails(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.host.put(record("web", "10.1.1.2"))
	r.host.flows = []conntrack.Flow{flow(1, "10.1.2.3", "10.1.1.2:80")}
	r.host.remark = []error{errors.New("broken")}
	r.begin(cluster()...)
	r.until("the connection to be cut", func() bool { return len(r.host.cut()) == 1 })
	if r.figure("twill_policy_cut_failures_total") != 1 || !strings.Contains(r.log.String(), "broken") {
		t.Errorf("not told: %s", r.log)
	}
}

func TestUnmark(t *testing.T) {
	h := &host{flows: []conntrack.Flow{flow(1, "10.1.2.3", "10.1.1.2:80"), flow(2, "fd00::1", "[fd00::2]:80")}}
	h.flows[0].Mark, h.flows[1].Mark = cutMark|5, cutMark
	if err := Unmark(t.Context(), Conntrack{Remark: h.Remark}, cutMark); err != nil {
		t.Fatal(err)
	}
	if h.flows[0].Mark != 5 || h.flows[1].Mark != 0 {
		t.Errorf("marks are %x and %x", h.flows[0].Mark, h.flows[1].Mark)
	}
}
