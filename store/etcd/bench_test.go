package etcd

import (
	"runtime"
	"testing"

	"github.com/twill-cni/twill/store"
)

// BenchmarkFirstSnapshot20000 measures the time from Open to the first snapshot of 20,000 leases, and how much heap a store
// holds then.
func BenchmarkFirstSnapshot20000(b *testing.B) {
	h := newHarness(b, nil)
	h.fill(20000)
	h.Compact()
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	var stores []*Store
	var kept []store.Snapshot
	before := heap()
	for b.Loop() {
		s := h.open()
		snap := <-follow(b, s)
		if len(snap.Leases) != 20000 {
			b.Fatalf("%d leases", len(snap.Leases))
		}
		stores, kept = append(stores, s), append(kept, snap)
	}
	b.StopTimer()
	b.ReportMetric((heap()-before)/float64(len(kept))/(1<<20), "MiB-held/store")
	runtime.KeepAlive(stores)
}

// BenchmarkChangeAmong20000 measures one record's way from a put to the snapshot that has it.
func BenchmarkChangeAmong20000(b *testing.B) {
	h := newHarness(b, nil)
	h.fill(20000)
	snapshots := follow(b, h.open())
	<-snapshots
	i := 0
	for b.Loop() {
		i++
		h.Put("10.0.7.0-24", value(b, "10.0.7.0-24", 30000+i%2))
		<-snapshots
	}
}
