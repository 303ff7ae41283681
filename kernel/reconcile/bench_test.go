package reconcile_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/reconcile"
)

// agreeable is a kernel that accepts everything and costs nothing, so that what is measured is the reconciler. Its link
// is always there, as desired.
type agreeable struct{ link kernel.Link }

func (k agreeable) Links(context.Context, []string) ([]kernel.Link, error) {
	return []kernel.Link{k.link}, nil
}
func (agreeable) Neighbors(context.Context, []string) ([]kernel.Neighbor, error)   { return nil, nil }
func (agreeable) FDB(context.Context, []string) ([]kernel.FDBEntry, error)         { return nil, nil }
func (agreeable) Routes(context.Context, []string) ([]kernel.Route, error)         { return nil, nil }
func (agreeable) ApplyLinks(context.Context, []kernel.Change[kernel.Link]) []error { return nil }
func (agreeable) ApplyNeighbors(context.Context, []kernel.Change[kernel.Neighbor]) []error {
	return nil
}
func (agreeable) ApplyFDB(context.Context, []kernel.Change[kernel.FDBEntry]) []error { return nil }
func (agreeable) ApplyRoutes(context.Context, []kernel.Change[kernel.Route]) []error { return nil }

func newAgreeable() *reconcile.Reconciler {
	return reconcile.New(agreeable{vxlan()}, kerneltest.NewTables(), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func mustSync(tb testing.TB, r *reconcile.Reconciler, want kernel.State) {
	tb.Helper()
	if _, err := r.Sync(context.Background(), want); err != nil {
		tb.Fatal(err)
	}
}

func peers(from, to int) kernel.State {
	s := overlay()
	for i := from; i < to; i++ {
		s.Fragments = append(s.Fragments, peer(i))
	}
	return s
}

func BenchmarkAdd1000Peers(b *testing.B) {
	for _, there := range []int{0, 20_000} {
		b.Run(fmt.Sprintf("to %d", there), func(b *testing.B) {
			with := peers(0, there+1000)
			without := with
			without.Fragments = with.Fragments[:there]
			for b.Loop() {
				b.StopTimer()
				r := newAgreeable()
				mustSync(b, r, without)
				runtime.GC()
				b.StartTimer()
				mustSync(b, r, with)
			}
		})
	}
}

func BenchmarkColdStart20000Peers(b *testing.B) {
	state := peers(0, 20_000)
	for b.Loop() {
		mustSync(b, newAgreeable(), state)
	}
}

func BenchmarkUnchanged20000Peers(b *testing.B) {
	state := peers(0, 20_000)
	r := newAgreeable()
	mustSync(b, r, state)
	for b.Loop() {
		mustSync(b, r, state)
	}
}

// heap returns the live heap in bytes.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The books of 20,000 peers, three objects each, stay under 25 MB on top of the fragments themselves: after they were
// written, and after they were found there by a restarted daemon.
func TestMemoryOf20000Peers(t *testing.T) {
	const limit = 25 << 20
	state := peers(0, 20_000)

	before := heap()
	r := newAgreeable()
	mustSync(t, r, state)
	written := heap() - before
	runtime.KeepAlive(r)

	k := kerneltest.New()
	first := reconcile.New(k, kerneltest.NewTables(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	mustSync(t, first, state)
	first = nil
	before = heap()
	r = reconcile.New(k, kerneltest.NewTables(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	mustSync(t, r, state)
	adopted := heap() - before
	runtime.KeepAlive(r)

	t.Logf("books after writing %.1f MB, after adopting %.1f MB", float64(written)/(1<<20), float64(adopted)/(1<<20))
	if written > limit || adopted > limit {
		t.Errorf("the books take %d and %d bytes, more than %d", written, adopted, limit)
	}
}
