package filestore

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/twill-cni/twill/ipam"
)

// tmpfs is a directory on tmpfs, where leases live in production.
func tmpfs(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "twill-ipam-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// BenchmarkAllocate measures one Allocate and one Release of a dual-stack lease beside a number of standing ones.
func BenchmarkAllocate(b *testing.B) {
	for _, standing := range []int{10, 1000, 60000} {
		b.Run(fmt.Sprintf("leases=%d", standing), func(b *testing.B) {
			a := open4test(b, config(b, tmpfs(b), `[{"subnet":"10.1.0.0/16"}]`, v6))
			ctx := context.Background()
			for i := range standing {
				if _, err := a.Allocate(ctx, ipam.Request{Owner: own(i)}); err != nil {
					b.Fatal(err)
				}
			}
			req := ipam.Request{Owner: own(standing)}
			for b.Loop() {
				if _, err := a.Allocate(ctx, req); err != nil {
					b.Fatal(err)
				}
				if found, err := a.Release(ctx, req.Owner); err != nil || !found {
					b.Fatal(found, err)
				}
			}
		})
	}
}

// BenchmarkRebuild measures what one kill in the middle of a change costs the next call, at 60,000 leases.
func BenchmarkRebuild(b *testing.B) {
	a := open4test(b, config(b, tmpfs(b), `[{"subnet":"10.1.0.0/16"}]`))
	ctx := context.Background()
	for i := range 60000 {
		if _, err := a.Allocate(ctx, ipam.Request{Owner: own(i)}); err != nil {
			b.Fatal(err)
		}
	}
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("known=%v", known), func(b *testing.B) {
			for b.Loop() {
				err := a.locked(ctx, false, func(s *session) error {
					t, err := s.table(a.cfg.Sets[0][0])
					if err != nil {
						return err
					}
					return s.rebuild(t, known)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
