package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// resolved is what a Service with these endpoints means.
func resolved(s *store.Service, slices ...*store.EndpointSlice) *service.Service {
	return service.Resolve(s, slices, &service.Node{Name: "node-a", Addrs: testHost.Addrs, NodePortAddrs: testHost.NodePortAddrs})
}

func reset(s *store.Service) { s.ResetConnections = true }

func TestStaleFlows(t *testing.T) {
	four := func(s *store.Service) { s.ClusterIPs = s.ClusterIPs[:1] }
	local := func(s *store.Service) {
		s.Type, s.ExternalLocal, s.ExternalIPs = store.ServiceNodePort, true, daemontest.Addrs("198.51.100.7")
	}
	draining := slice("a", "10.244.1.5", "10.244.1.6")
	draining.Endpoints[1].Ready, draining.Endpoints[1].Terminating = false, true
	dead := slice("a", "10.244.1.5", "10.244.1.6")
	dead.Endpoints[1].Ready, dead.Endpoints[1].Serving = false, false
	two := slice("a", "10.244.1.5", "10.244.1.6")
	tests := []struct {
		name     string
		old, now *service.Service
		want     []string
	}{
		{"nothing", nil, nil, nil},
		{"the same", resolved(svc("a", 1, udp), two), resolved(svc("a", 1, udp), two), nil},
		{"endpoint removed", resolved(svc("a", 1, udp, four), two), resolved(svc("a", 1, udp, four), slice("a", "10.244.1.5")),
			[]string{"protocol 17 to 10.96.0.1:80 answered by 10.244.1.6:8080"}},
		{"endpoint added", resolved(svc("a", 1, udp, four), slice("a", "10.244.1.5")), resolved(svc("a", 1, udp, four), two), nil},
		{"endpoint drains", resolved(svc("a", 1, udp, four), two), resolved(svc("a", 1, udp, four), draining), nil},
		{"endpoint is dead", resolved(svc("a", 1, udp, four), two), resolved(svc("a", 1, udp, four), dead),
			[]string{"protocol 17 to 10.96.0.1:80 answered by 10.244.1.6:8080"}},
		{"endpoint that drained goes", resolved(svc("a", 1, udp, four), draining), resolved(svc("a", 1, udp, four), slice("a", "10.244.1.5")),
			[]string{"protocol 17 to 10.96.0.1:80 answered by 10.244.1.6:8080"}},
		{"scaled to nothing", resolved(svc("a", 1, udp, four), slice("a", "10.244.1.5")), resolved(svc("a", 1, udp, four)),
			[]string{"protocol 17 to 10.96.0.1:80 answered by 10.244.1.5:8080"}},
		{"from nothing", resolved(svc("a", 1, udp, four)), resolved(svc("a", 1, udp, four), two),
			[]string{"protocol 17 to 10.96.0.1:80 answered by 10.96.0.1:80"}},
		{"new", nil, resolved(svc("a", 1, udp, four), two), []string{"protocol 17 to 10.96.0.1:80 answered by 10.96.0.1:80"}},
		{"new without endpoints", nil, resolved(svc("a", 1, udp, four)), nil},
		{"gone", resolved(svc("a", 1, udp, four), two), nil, []string{"protocol 17 to 10.96.0.1:80"}},
		{"another address", resolved(svc("a", 1, udp, four)), resolved(svc("a", 2, udp, four)), []string{"protocol 17 to 10.96.0.1:80"}},
		{"IPv6", resolved(svc("a", 1, udp), slice("a", "fd00:244:0:1::5")), resolved(svc("a", 1, udp)),
			[]string{"protocol 17 to [fd00:96::1]:80 answered by [fd00:244:0:1::5]:8080"}},
		{"inside alone keeps what others lose", resolved(svc("a", 1, udp, four, local), slice("a", "10.244.1.5", "10.244.2.5")),
			resolved(svc("a", 1, udp, four, local), slice("a", "10.244.2.5")), []string{
				"protocol 17 to 10.96.0.1:80 answered by 10.244.1.5:8080", "protocol 17 to 198.51.100.7:80 answered by 10.244.1.5:8080"}},
		{"TCP", resolved(svc("a", 1), two), resolved(svc("a", 1), slice("a", "10.244.1.5")), nil},
		{"TCP gone", resolved(svc("a", 1), two), nil, nil},
		{"TCP new", nil, resolved(svc("a", 1), two), nil},
		{"TCP that is reset", resolved(svc("a", 1, four, reset), two), resolved(svc("a", 1, four, reset), slice("a", "10.244.1.5")),
			[]string{"protocol 6 to 10.96.0.1:80 answered by 10.244.1.6:8080"}},
		{"TCP that is reset drains", resolved(svc("a", 1, four, reset), two), resolved(svc("a", 1, four, reset), draining), nil},
		{"TCP that is reset is dead", resolved(svc("a", 1, four, reset), two), resolved(svc("a", 1, four, reset), dead),
			[]string{"protocol 6 to 10.96.0.1:80 answered by 10.244.1.6:8080"}},
		{"TCP that is reset is gone", resolved(svc("a", 1, four, reset), two), nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var have []string
			for _, m := range staleFlows(tt.old, tt.now) {
				have = append(have, m.String())
			}
			slices.Sort(have)
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var udpFlows = conntrack.Flows{Protocol: uint8(store.UDP)}

func flow(dst, endpoint string) conntrack.Flow {
	return conntrack.Flow{Dst: netip.MustParseAddrPort(dst), Endpoint: netip.MustParseAddrPort(endpoint)}
}

// An endpoint that went away while the daemon was down has left entries, which the first sync sweeps: once, and not one by one.
func TestSweepAtStart(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	good, foreign, host := flow("10.96.0.2:80", "10.244.1.7:8080"), flow("203.0.113.1:80", "10.244.1.99:8080"), flow("10.96.0.9:80", "10.96.0.9:80")
	r.flows.entries[udpFlows] = []conntrack.Flow{good, flow("10.96.0.2:80", "10.244.1.99:8080"), flow("10.96.0.2:80", "10.96.0.2:80"), foreign, host}
	r.begin(append(cluster(), svc("idle", 9, udp))...)
	r.until("the sweep", func() bool { r.flows.mu.Lock(); defer r.flows.mu.Unlock(); return len(r.flows.entries[udpFlows]) == 3 })
	if have := r.flows.list(); len(have) > 0 {
		t.Errorf("flushed %v", have)
	}
	r.flows.mu.Lock()
	defer r.flows.mu.Unlock()
	if diff := cmp.Diff(fmt.Sprint([]conntrack.Flow{good, foreign, host}), fmt.Sprint(r.flows.entries[udpFlows])); diff != "" {
		t.Error(diff)
	}
}

func TestFlushFollowsAChange(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.flows.mu.Lock()
	r.flows.fail = []error{errors.New("broken")}
	r.flows.mu.Unlock()
	r.tell(slice("dns", "10.244.1.70"))
	r.until("the failure to be counted", func() bool { return r.figure("twill_proxy_conntrack_failures_total") == 1 })
	r.until("the failure to be logged", func() bool { return r.log.Count("until it pauses") == 1 })
	r.tell(slice("dns", "10.244.1.71"))
	r.until("the flush", func() bool { return len(r.flows.list()) == 1 })
	if diff := cmp.Diff([]string{"protocol 17 to 10.96.0.2:80 answered by 10.244.1.70:8080"}, r.flows.list()); diff != "" {
		t.Error(diff)
	}
}

// Many at once are swept in one listing, by the same rule.
func TestManyFlushesAreOneSweep(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	var pods []string
	for i := range 2 * flushMost {
		pods = append(pods, fmt.Sprintf("10.244.2.%d", i+1))
	}
	r.begin(svc("dns", 2, udp), slice("dns", pods...))
	stays := flow("10.96.0.2:80", "10.244.2.1:8080")
	r.until("the first sweep", func() bool { r.flows.mu.Lock(); defer r.flows.mu.Unlock(); return r.flows.sweeps > 0 })
	r.flows.mu.Lock()
	r.flows.sweeps = 0
	r.flows.entries[udpFlows] = []conntrack.Flow{stays, flow("10.96.0.2:80", "10.244.2.2:8080"), flow("203.0.113.1:80", "10.244.2.2:8080")}
	r.flows.mu.Unlock()
	r.tell(slice("dns", pods[0]))
	r.until("the sweep", func() bool { r.flows.mu.Lock(); defer r.flows.mu.Unlock(); return len(r.flows.entries[udpFlows]) == 2 })
	if have := r.flows.list(); len(have) > 0 {
		t.Errorf("flushed one by one: %v", have)
	}
}

// An endpoint that is back before its entries were removed keeps them.
func TestEndpointThatCameBack(t *testing.T) {
	f := newFlusher((&flows{}).conntrack(), nil, nil)
	two, one := resolved(svc("a", 1, udp), slice("a", "10.244.1.5", "10.244.1.6")), resolved(svc("a", 1, udp), slice("a", "10.244.1.5"))
	f.view.Apply([]service.Change{{New: two}})
	m := staleFlows(two, one)[0]
	if !f.view.serves(m) {
		t.Error("an endpoint is unknown")
	}
	f.view.Apply([]service.Change{{Old: two, New: one}})
	if f.view.serves(m) {
		t.Error("an endpoint that went is known")
	}
	f.view.Apply([]service.Change{{Old: one}})
	if tables := f.view.tables(); len(tables) > 0 || len(f.view.frontends) > 0 {
		t.Errorf("left: %v, %v", tables, f.view.frontends)
	}
}
