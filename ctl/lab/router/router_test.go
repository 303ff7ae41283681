package router

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

// speaker is a bgp.Speaker that learns what the test says.
type speaker struct {
	bgp.Speaker
	setFails error

	mu      sync.Mutex
	set     bgp.Instance
	learned []*bgp.Route
	settled bool
	changed func()
	running chan struct{} // closed when changed is there
}

func (s *speaker) Run(ctx context.Context, changed func()) error {
	s.changed = changed
	close(s.running)
	<-ctx.Done()
	return nil
}

func (s *speaker) Set(_ context.Context, want bgp.Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set = want
	return s.setFails
}

func (s *speaker) Learned() []*bgp.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.learned
}

func (s *speaker) Settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled
}

func (s *speaker) learn(settled bool, routes ...*bgp.Route) {
	s.mu.Lock()
	s.learned, s.settled = routes, settled
	s.mu.Unlock()
	s.changed()
}

// monitor hands on what happens in the kernel in memory.
type monitor struct{ kernel *kerneltest.Kernel }

func (m monitor) Run(ctx context.Context, emit func(kernel.Event)) error {
	m.kernel.Observe(emit)
	<-ctx.Done()
	return nil
}

func subnets() []Subnet {
	return []Subnet{{"br1", netip.MustParsePrefix("172.30.1.0/24")}, {"br2", netip.MustParsePrefix("172.30.2.0/24")},
		{"br2", netip.MustParsePrefix("fd00:30:0:2::/64")}}
}

func learned(prefix string, hops ...string) *bgp.Route {
	r := &bgp.Route{Prefix: netip.MustParsePrefix(prefix)}
	for _, h := range hops {
		r.NextHops = append(r.NextHops, netip.MustParseAddr(h))
	}
	return r
}

func TestFragment(t *testing.T) {
	local := learned("10.244.1.0/24", "172.30.1.1")
	local.Local = true
	tests := []struct {
		name  string
		route *bgp.Route
		want  []kernel.NextHop // nil: no route
	}{
		{"of a node", learned("10.244.1.0/24", "172.30.2.1"), []kernel.NextHop{{Gateway: netip.MustParseAddr("172.30.2.1"), Link: "br2"}}},
		{"IPv6", learned("fd00:244::/64", "fd00:30:0:2::1"), []kernel.NextHop{{Gateway: netip.MustParseAddr("fd00:30:0:2::1"), Link: "br2"}}},
		{"two ways", learned("10.9.0.0/16", "172.30.2.1", "172.30.1.1"),
			[]kernel.NextHop{{Gateway: netip.MustParseAddr("172.30.1.1"), Link: "br1"}, {Gateway: netip.MustParseAddr("172.30.2.1"), Link: "br2"}}},
		{"one way leads nowhere", learned("10.9.0.0/16", "192.0.2.1", "172.30.1.1"), []kernel.NextHop{{Gateway: netip.MustParseAddr("172.30.1.1"), Link: "br1"}}},
		{"no way", learned("10.9.0.0/16", "192.0.2.1"), nil},
		{"its own", local, nil},
		{"within a subnet", learned("172.30.1.128/25", "172.30.2.1"), nil},
		{"around a subnet", learned("0.0.0.0/0", "172.30.2.1"), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Config{Subnets: subnets()}.fragment(tt.route)
			var got []kernel.NextHop
			if f != nil {
				got = f.Routes[0].NextHops
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInstance(t *testing.T) {
	got := instance(Config{AS: 65000, RouterID: netip.MustParseAddr("172.30.0.1"), NodesAS: 64512, Subnets: subnets()[:1], IPv4: true}, true)
	want := bgp.Instance{AS: 65000, RouterID: netip.MustParseAddr("172.30.0.1"), Port: 179, IPv4: true, Restarting: true,
		Ranges: []bgp.Range{{Name: "nodes on br1", Prefix: netip.MustParsePrefix("172.30.1.0/24"),
			Settings: bgp.Settings{AS: 64512, Timers: timers, Graceful: &graceful}}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
}

// start serves with a kernel in memory until the test ends.
func start(t *testing.T, left ...kernel.Route) (*speaker, *kerneltest.Kernel) {
	t.Helper()
	k := kerneltest.New()
	for _, name := range []string{"br1", "br2"} {
		k.PutLink(kernel.Link{Name: name, Up: true, Bridge: &kernel.Bridge{}}, kerneltest.Foreign)
	}
	for _, r := range left {
		if err := k.PutRoute(r, kerneltest.Ours); err != nil {
			t.Fatal(err)
		}
	}
	s := &speaker{running: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error), make(chan struct{})
	go func() {
		parts := Parts{Speaker: s, Kernel: k, Monitor: monitor{k}, Log: slog.New(slog.DiscardHandler)}
		ended <- Serve(ctx, Config{Subnets: subnets(), IPv4: true}, parts, func() { close(ready) })
	}()
	<-s.running
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, k
}

// await waits until the kernel's routes are those to the given prefixes.
func await(t *testing.T, k *kerneltest.Kernel, want ...string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var got []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		routes, err := k.Routes(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, r := range routes {
			got = append(got, r.Dst.String())
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("the kernel has routes to %v, want %v", got, want)
}

func TestLearnedRoutesReachTheKernel(t *testing.T) {
	stale := kernel.Route{Dst: netip.MustParsePrefix("10.244.9.0/24"), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("172.30.1.9"), Link: "br1"}}}
	s, k := start(t, stale)
	if !s.set.Restarting {
		t.Error("it holds routes and does not say so")
	}
	one, two := learned("10.244.1.0/24", "172.30.1.1"), learned("10.244.2.0/24", "172.30.2.1")
	s.learn(false, one)
	await(t, k, "10.244.1.0/24", "10.244.9.0/24")
	s.learn(true, one, two)
	await(t, k, "10.244.1.0/24", "10.244.2.0/24")
	k.DeleteRoute(kernel.Route{Dst: one.Prefix}.Key())
	await(t, k, "10.244.1.0/24", "10.244.2.0/24")
	s.learn(true, two)
	await(t, k, "10.244.2.0/24")
}

func TestSyncIsTriedAgain(t *testing.T) {
	s, k := start(t)
	k.FailObject("route 10.244.1.0/24", errors.New("no memory"))
	s.learn(true, learned("10.244.1.0/24", "172.30.1.1"))
	await(t, k, "10.244.1.0/24")
}

func TestSpeakerThatCannotStart(t *testing.T) {
	k, refused := kerneltest.New(), errors.New("port 179 is in use")
	s := &speaker{running: make(chan struct{}), setFails: refused}
	parts := Parts{Speaker: s, Kernel: k, Monitor: monitor{k}, Log: slog.New(slog.DiscardHandler)}
	if err := Serve(t.Context(), Config{}, parts, func() { t.Error("it is ready") }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}
