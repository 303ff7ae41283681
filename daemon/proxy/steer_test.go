package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/store"
)

// Slots move from the endpoint with many connections to the one with few, and back when the counts say so; what the Service's health, routes and
// figures say does not.
func TestSteering(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	tcp := conntrack.Flows{Protocol: uint8(store.TCP)}
	connect := func(endpoint string, n int) {
		r.flows.mu.Lock()
		defer r.flows.mu.Unlock()
		r.flows.entries[tcp] = nil
		for i := range n {
			f := flow("10.96.0.1:80", endpoint)
			f.ID = uint32(i)
			r.flows.entries[tcp] = append(r.flows.entries[tcp], f)
		}
	}
	connect("10.244.1.5:8080", 100)
	lc := func(s *store.Service) { s.Scheduler = "lc" }
	r.begin(svc("web", 1, lc), slice("web", "10.244.1.5", "10.244.2.5"), svc("other", 2), slice("other", "10.244.1.6", "10.244.2.6"))
	slots := func(endpoint string) int { return strings.Count(r.dump(), ": "+endpoint+" . 8080\n") }
	r.until("most slots to be the idle one's", func() bool { return slots("10.244.2.5") > 8*slots("10.244.1.5") })
	if slots("10.244.1.5") == 0 {
		t.Error("an endpoint has no slot")
	}
	if n := slots("10.244.1.6"); n != 1 {
		t.Errorf("a Service that is not steered has %d slots for an endpoint", n)
	}
	connect("10.244.2.5:8080", 100)
	r.until("the slots to move", func() bool { return slots("10.244.1.5") > 8*slots("10.244.2.5") })
	r.tell(slice("web", "10.244.1.5", "10.244.2.5", "10.244.2.7"))
	r.settled()
	if n := slots("10.244.2.7"); n < 4 {
		t.Errorf("an endpoint that is new has %d slots", n)
	}
	r.tell(svc("web", 1))
	r.until("an even choice", func() bool {
		return fmt.Sprint(slots("10.244.1.5"), slots("10.244.2.5"), slots("10.244.2.7")) == "1 1 1"
	})
	if r.figure("kubeproxy_sync_full_proxy_rules_duration_seconds") != 1 {
		t.Error("steering compares everything")
	}
}
