package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/proxy/config"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// source is a store.ServiceSource that tells what it is given.
type source struct {
	daemontest.Source[store.ServiceChanges]
}

func (s source) WatchServices(ctx context.Context, emit func(store.ServiceChanges)) error {
	return s.Watch(ctx, emit)
}

// flows is a conntrack table.
type flows struct {
	mu      sync.Mutex
	flushed []string
	fail    []error
	sweeps  int
	entries map[conntrack.Flows][]conntrack.Flow
}

func (f *flows) conntrack() Conntrack {
	return Conntrack{Flush: f.flush, Sweep: f.sweep, Each: f.each}
}

func (f *flows) flush(_ context.Context, m conntrack.Match) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.fail) > 0 {
		err := f.fail[0]
		f.fail = f.fail[1:]
		return err
	}
	f.flushed = append(f.flushed, m.String())
	return nil
}

func (f *flows) sweep(_ context.Context, of conntrack.Flows, stale func(dst, endpoint netip.AddrPort) bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweeps++
	before := len(f.entries[of])
	f.entries[of] = slices.DeleteFunc(f.entries[of], func(e conntrack.Flow) bool { return stale(e.Dst, e.Endpoint) })
	return before - len(f.entries[of]), nil
}

func (f *flows) each(_ context.Context, of conntrack.Flows, reset func(), each func(conntrack.Flow)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dst := of.Dst
	of.Dst = netip.AddrPort{}
	reset()
	for _, e := range f.entries[of] {
		if !dst.IsValid() || dst == e.Dst {
			each(e)
		}
	}
	return nil
}

func (f *flows) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.flushed)
	slices.Sort(out)
	return out
}

// rig is a proxy on a kernel in memory.
type rig struct {
	t        testing.TB
	tables   *kerneltest.Tables
	source   source
	flows    *flows
	log      *daemontest.Log
	registry *prometheus.Registry
	config   *config.Config
	proxy    *Proxy
	stop     func()
}

func newRig(t testing.TB, tables *kerneltest.Tables) *rig {
	c := config.Default()
	c.HealthzAddress, c.MetricsAddress = "127.0.0.1:0", "127.0.0.1:0"
	r := &rig{t: t, tables: tables, source: source{make(daemontest.Source[store.ServiceChanges])}, flows: &flows{entries: map[conntrack.Flows][]conntrack.Flow{}}, log: &daemontest.Log{},
		registry: prometheus.NewRegistry(), config: c}
	r.proxy = New(Options{Source: r.source, Kernel: tables, Config: c, NodeName: "node-a", Conntrack: r.flows.conntrack(),
		Metrics: NewMetrics(r.registry), Gatherer: r.registry, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	tables.Observe(nil)
	return r
}

// start runs the proxy until the test ends, or stop is called.
func (r *rig) start() { r.stop = daemontest.Start(r.t, r.proxy.Run) }

var testHost = Host{
	PodNetworks:     daemontest.Prefixes("10.244.0.0/16", "fd00:244::/48"),
	NodePodNetworks: daemontest.Prefixes("10.244.1.0/24", "fd00:244:0:1::/64"),
	Addrs:           daemontest.Addrs("192.0.2.1", "2001:db8::1"),
	NodePortAddrs:   daemontest.Addrs("192.0.2.1", "2001:db8::1"),
}

// begin starts the proxy with these objects, and waits until the kernel holds them.
func (r *rig) begin(objects ...any) {
	r.t.Helper()
	r.start()
	r.proxy.SetHost(testHost)
	c := changes(objects...)
	c.Reset = true
	r.source.Tell(r.t, c)
	r.until("the first sync", func() bool { return r.proxy.Ready() == nil })
}

// tell has the source tell changes.
func (r *rig) tell(objects ...any) {
	r.t.Helper()
	r.source.Tell(r.t, changes(objects...))
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	daemontest.Until(r.t, what, ok, func() string { return r.dump() + "\n" + r.log.String() })
}

// settled waits until the kernel holds all that was told.
func (r *rig) settled() {
	r.t.Helper()
	r.until("the kernel to hold what was told", func() bool {
		r.proxy.mu.Lock()
		in := r.proxy.in
		r.proxy.mu.Unlock()
		r.proxy.state.Lock()
		defer r.proxy.state.Unlock()
		return in.changes == nil && in.host == nil && !in.drift && !in.compare && r.proxy.health.State().Idle()
	})
}

func (r *rig) figure(name string) float64 {
	r.t.Helper()
	return daemontest.Figure(r.t, r.registry, name)
}

// dump returns what the large sets hold.
func (r *rig) dump() string { return dump(r.tables) }

func dump(tables *kerneltest.Tables) string {
	var b strings.Builder
	for _, family := range []kernel.TableFamily{kernel.FamilyIPv4, kernel.FamilyIPv6} {
		for _, set := range dnat.BulkSets() {
			if text := tables.DumpSet(kernel.SetID{Family: family, Table: dnat.TableName, Set: set}); text != "" {
				b.WriteString(set + "\n" + text)
			}
		}
	}
	return b.String()
}

var slot = regexp.MustCompile(`( \. (?:tcp|udp|sctp) \. \d+) \. \d+ :`)

// meaning is a dump that does not say who has which slot: that depends on who had it before.
func meaning(dump string) string {
	all := strings.Split(slot.ReplaceAllString(dump, "$1 :"), "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// gone is an object that is there no more: "web" a Service, "web/1" a slice.
type gone string

func named(name string) store.ObjectName { return store.ObjectName{Namespace: "shop", Name: name} }

// changes gathers Services, slices and what is gone.
func changes(objects ...any) store.ServiceChanges {
	c := store.ServiceChanges{Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{}}
	for _, o := range objects {
		switch o := o.(type) {
		case *store.Service:
			c.Services[o.Name] = o
		case *store.EndpointSlice:
			c.Slices[o.Name] = o
		case gone:
			if strings.Contains(string(o), "/") {
				c.Slices[named(string(o))] = nil
			} else {
				c.Services[named(string(o))] = nil
			}
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
	return c
}

// svc is a Service of one port, 80, at 10.96.0.n and fd00:96::n.
func svc(name string, n int, change ...func(*store.Service)) *store.Service {
	s := &store.Service{Name: named(name), Type: store.ServiceClusterIP,
		ClusterIPs: daemontest.Addrs(fmt.Sprintf("10.96.0.%d", n), fmt.Sprintf("fd00:96::%d", n)),
		Ports:      []store.ServicePort{{Protocol: store.TCP, Port: 80}}}
	for _, f := range change {
		f(s)
	}
	return s
}

func udp(s *store.Service) { s.Ports[0].Protocol = store.UDP }

// slice is the EndpointSlice "name/1" of a Service, with port 8080 for both protocols.
func slice(name string, endpoints ...string) *store.EndpointSlice {
	s := &store.EndpointSlice{Name: named(name + "/1"), Service: name,
		Ports: []store.EndpointPort{{Protocol: store.TCP, Port: 8080}, {Protocol: store.UDP, Port: 8080}}}
	for _, e := range endpoints {
		a := netip.MustParseAddr(e)
		s.IPv6 = a.Is6()
		node := "node-b"
		if testHost.NodePodNetworks[0].Contains(a) {
			node = "node-a"
		}
		s.Endpoints = append(s.Endpoints, store.Endpoint{Addr: a, Ready: true, Serving: true, Node: node})
	}
	return s
}
