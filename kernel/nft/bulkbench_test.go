package nft

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// benchmarkHandle is a handle on an empty table choosing in a namespace of its own.
func benchmarkHandle(b *testing.B) *Handle {
	b.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	h, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Close() })
	if err := h.SyncTables(b.Context(), []kernel.Table{choosing(kernel.FamilyIPv4)}, nil); err != nil {
		b.Fatal(err)
	}
	listBulk(b, h)
	return h
}

func BenchmarkEncodeChange(b *testing.B) {
	h := benchmarkHandle(b)
	all := endpoints(0, 300_000)
	b.ReportAllocs()
	for b.Loop() {
		c := setChange("endpoints", nil, all...)
		w := bulkWriter{batch: h.socket.Begin(unix.NFNL_SUBSYS_NFTABLES, 0, sizeOf(c)), id: tableID{2, "twill-test"}}
		w.write(unix.NFT_MSG_NEWSETELEM, "endpoints", len(c.Add), func(i int) kernel.Entry { return c.Add[i] })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/element")
}

// BenchmarkChangeElements adds elements and removes them again, in pieces of 10,000: what BenchmarkEncodeChange does not account for is the
// kernel's.
func BenchmarkChangeElements(b *testing.B) {
	for _, n := range []int{10_000, 300_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := benchmarkHandle(b)
			all := endpoints(0, n)
			remove := keys(all)
			const piece = 10_000
			b.ReportAllocs()
			for b.Loop() {
				for i := 0; i < n; i += piece {
					changeElements(b, h, setChange("endpoints", nil, all[i:i+piece]...))
				}
				b.StopTimer()
				for i := 0; i < n; i += piece {
					changeElements(b, h, setChange("endpoints", remove[i:i+piece]))
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/element")
		})
	}
}

// BenchmarkEntries lists what grows with the square of the number of elements in the kernel.
func BenchmarkEntries(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := benchmarkHandle(b)
			changeElements(b, h, setChange("endpoints", nil, endpoints(0, n)...))
			b.ReportAllocs()
			for b.Loop() {
				count := 0
				err := h.Entries(b.Context(), kernel.SetID{Family: kernel.FamilyIPv4, Table: "twill-test", Set: "endpoints"},
					func() { count = 0 }, func(kernel.Entry) { count++ })
				if err != nil || count != n {
					b.Fatal(count, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/element")
		})
	}
}
