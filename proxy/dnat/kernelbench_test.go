package dnat

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/proxy/service"
)

// BenchmarkKernel brings all Services into an empty kernel, and then changes one endpoint at a time.
func BenchmarkKernel(b *testing.B) {
	c := families()[0].config
	for _, n := range []int{10000, 50000} {
		all := many(n)
		b.Run(fmt.Sprintf("first/%dx5", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				h := openHandle(b)
				b.StartTimer()
				first(b, h, New(c), all)
			}
		})
		b.Run(fmt.Sprintf("one/%dx5", n), func(b *testing.B) {
			h, t := openHandle(b), New(c)
			first(b, h, t, all)
			less := *all[n/2]
			less.Frontends = append(less.Frontends[:0:0], less.Frontends...)
			less.Frontends[0].Endpoints = less.Frontends[0].Endpoints[1:]
			one, other := []Change{{less.Name, &less}}, []Change{{less.Name, all[n/2]}}
			for b.Loop() {
				u := t.Set(one)
				if u.Skeleton {
					must(b, h.SyncTables(b.Context(), []kernel.Table{t.Skeleton()}, nil))
				}
				must(b, h.ChangeElements(b.Context(), c.Family, TableName, u.Elements))
				one, other = other, one
			}
		})
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// openHandle returns a handle in a namespace of its own.
func openHandle(b *testing.B) *nft.Handle {
	b.Helper()
	var h *nft.Handle
	var err error
	newPlace(b).do(func() { h, err = nft.Open(slog.New(slog.DiscardHandler)) })
	must(b, err)
	b.Cleanup(func() { _ = h.Close() })
	return h
}

func first(b *testing.B, h *nft.Handle, t *Table, all []*service.Service) {
	b.Helper()
	family := families()[0].config.Family
	u := t.Reset(all, &Listing{})
	must(b, h.SyncTables(b.Context(), []kernel.Table{t.Skeleton()}, nil))
	for _, set := range BulkSets() {
		must(b, h.Entries(b.Context(), kernel.SetID{Family: family, Table: TableName, Set: set}, func() {}, func(kernel.Entry) {}))
	}
	for _, part := range Split(u.Elements, 50000) {
		must(b, h.ChangeElements(b.Context(), family, TableName, part))
	}
}
