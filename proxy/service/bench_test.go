package service_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// cluster returns n Services with k endpoints each, spread over 100 nodes. No two strings share memory, as when they were decoded.
func cluster(n, k int) world {
	w := worldOf()
	for i := range n {
		s := benchService(i)
		w.services[s.Name] = s
		e := benchSlice(i, k, 0)
		w.slices[e.Name] = e
	}
	return w
}

func benchAddr(base string, i int) netip.Addr {
	b := netip.MustParseAddr(base).As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b)
}

func benchService(i int) *store.Service {
	return &store.Service{
		Name: store.ObjectName{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d", i)}, Created: epoch, Type: store.ServiceClusterIP,
		ClusterIPs: []netip.Addr{benchAddr("10.96.0.1", i)},
		Ports:      []store.ServicePort{{Name: strings.Clone("http"), Protocol: store.TCP, Port: 80}},
	}
}

// benchSlice returns the slice of Service i with its endpoints from the number shift on.
func benchSlice(i, k, shift int) *store.EndpointSlice {
	e := &store.EndpointSlice{
		Name:    store.ObjectName{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d-abcde", i)},
		Service: fmt.Sprintf("service-%d", i),
		Ports:   []store.EndpointPort{{Name: strings.Clone("http"), Protocol: store.TCP, Port: 8080}},
	}
	for j := range k {
		node := (i*k + j + shift) % 100
		e.Endpoints = append(e.Endpoints, store.Endpoint{
			Addr: benchAddr("10.128.0.0", i*k+j+shift), Ready: true, Serving: true,
			Node: fmt.Sprintf("node-%d.example.net", node), Zone: fmt.Sprintf("zone-%d", node%3),
		})
	}
	return e
}

func BenchmarkResolve(b *testing.B) {
	node := testNode()
	for _, k := range []int{5, 1000} {
		b.Run(fmt.Sprintf("%d endpoints", k), func(b *testing.B) {
			svc, slices := benchService(1), sliceList{benchSlice(1, k, 0)}
			b.ReportAllocs()
			for b.Loop() {
				service.Resolve(svc, slices, node)
			}
		})
	}
}

func BenchmarkTrackerReset(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("%d x 5", n), func(b *testing.B) {
			reset := cluster(n, 5).reset()
			b.ReportAllocs()
			for b.Loop() {
				tracker := service.NewTracker(*testNode())
				tracker.Apply(reset)
				if got := len(tracker.Next()); got != n {
					b.Fatalf("%d changes", got)
				}
			}
		})
	}
}

// BenchmarkTrackerEndpoint changes one endpoint of one Service among many.
func BenchmarkTrackerEndpoint(b *testing.B) {
	for _, n := range []int{100, 10_000, 50_000} {
		b.Run(fmt.Sprintf("at %d x 5", n), func(b *testing.B) {
			tracker := service.NewTracker(*testNode())
			tracker.Apply(cluster(n, 5).reset())
			tracker.Next()
			changes := []store.ServiceChanges{worldOf(benchSlice(7, 5, 1)).change(), worldOf(benchSlice(7, 5, 0)).change()}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				tracker.Apply(changes[i%2])
				if len(tracker.Next()) != 1 {
					b.Fatal("one change is expected")
				}
			}
		})
	}
}

// BenchmarkTrackerNode moves the node to another zone.
func BenchmarkTrackerNode(b *testing.B) {
	tracker := service.NewTracker(*testNode())
	tracker.Apply(cluster(10_000, 5).reset())
	tracker.Next()
	for i := 0; b.Loop(); i++ {
		node := *testNode()
		node.Zone = fmt.Sprintf("zone-%d", i%2+5)
		tracker.SetNode(node)
		tracker.Next()
	}
}

// A Service with five endpoints costs less than 3 kB of heap, with the objects that it was made from.
func TestMemory(t *testing.T) {
	const n, most = 10_000, 3_000
	before := heap()
	tracker := service.NewTracker(*testNode())
	tracker.Apply(cluster(n, 5).reset())
	tracker.Next()
	each := int64(heap()-before) / n
	t.Logf("%d bytes for each of %d Services with 5 endpoints", each, n)
	if each > most {
		t.Errorf("%d bytes for a Service, more than %d", each, most)
	}
	runtime.KeepAlive(tracker)
}

// Services that come and go leave nothing behind.
func TestNothingIsLeft(t *testing.T) {
	tracker := service.NewTracker(*testNode())
	tracker.Apply(worldOf().reset())
	churn := func(from, to int) {
		for i := from; i < to; i++ {
			svc, slice := benchService(i), benchSlice(i, 5, 0)
			svc.ExternalIPs = addrs("198.51.100.1")
			tracker.Apply(worldOf(svc, slice).change())
			tracker.Next()
			if i%2 == 0 {
				tracker.Apply(gone("service " + svc.Name.String()))
				tracker.Next()
			}
			tracker.Apply(gone("service "+svc.Name.String(), "slice "+slice.Name.String()))
			tracker.Next()
		}
	}
	churn(0, 100)
	before := heap()
	churn(100, 5_100)
	if more := int64(heap()) - int64(before); more > 200_000 {
		t.Errorf("5,000 Services that came and went left %d bytes", more)
	}
	if all := tracker.All(); len(all) != 0 {
		t.Errorf("%d Services are left", len(all))
	}
	runtime.KeepAlive(tracker)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
