package dnat

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// many returns n Services with a ClusterIP and five endpoints each.
func many(n int) []*service.Service {
	out := make([]*service.Service, n)
	for i := range out {
		f := service.Frontend{FrontendKey: service.FrontendKey{Addr: netip.AddrFrom4([4]byte{10, byte(96 + i>>16), byte(i >> 8), byte(i)}), Protocol: store.TCP, Port: 80},
			Masquerade: service.MasqueradeOffCluster, Scheduler: service.Random}
		for k := range 5 {
			j := i*5 + k
			f.Endpoints = append(f.Endpoints, service.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(128 + j>>16), byte(j >> 8), byte(j)}), 8080), Weight: 1})
		}
		out[i] = svc(fmt.Sprintf("service-%d", i), f)
	}
	return out
}

// BenchmarkFirst renders all Services for an empty kernel.
func BenchmarkFirst(b *testing.B) {
	for _, n := range []int{10000, 50000} {
		b.Run(fmt.Sprintf("%dx5", n), func(b *testing.B) {
			all := many(n)
			b.ReportAllocs()
			for b.Loop() {
				New(families()[0].config).Reset(all, &Listing{})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n*5), "ns/endpoint")
		})
	}
}

// BenchmarkHeld is the memory that a table keeps, beside the Services themselves.
func BenchmarkHeld(b *testing.B) {
	const n = 50000
	all := many(n)
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := held()
		t := New(families()[0].config)
		t.Reset(all, &Listing{})
		b.ReportMetric(float64(held()-before)/(n*5), "B/endpoint")
		runtime.KeepAlive(t)
	}
	runtime.KeepAlive(all)
}

// BenchmarkOneEndpoint takes an endpoint of one Service away and puts it back, among many Services.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, n := range []int{100, 10000, 50000} {
		b.Run(fmt.Sprintf("%dx5", n), func(b *testing.B) {
			all := many(n)
			t := New(families()[0].config)
			t.Reset(all, &Listing{})
			less := *all[n/2]
			less.Frontends = slices.Clone(less.Frontends)
			less.Frontends[0].Endpoints = less.Frontends[0].Endpoints[1:]
			one, other := []Change{{less.Name, &less}}, []Change{{less.Name, all[n/2]}}
			elements, changes := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				elements += size(t.Set(one).Elements)
				one, other = other, one
				changes++
			}
			b.ReportMetric(float64(elements)/float64(changes), "elements/change")
		})
	}
}

// BenchmarkRestart compares a kernel that holds everything with what it should hold.
func BenchmarkRestart(b *testing.B) {
	all := many(10000)
	t := New(families()[0].config)
	u := t.Reset(all, &Listing{})
	for b.Loop() {
		b.StopTimer()
		l := &Listing{}
		for _, c := range u.Elements {
			for _, e := range c.Add {
				l.Add(c.Set, kernel.Entry{Key: e.Key, Value: e.Value})
			}
		}
		b.StartTimer()
		if u := New(families()[0].config).Reset(all, l); size(u.Elements) > 0 {
			b.Fatalf("%d elements", size(u.Elements))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*50000), "ns/endpoint")
}
