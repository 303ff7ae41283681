package reconcile

import (
	"context"
	"log/slog"
	"sync"

	"github.com/twill-cni/twill/kernel"
)

// Reconciler makes one kernel hold a desired state. Its methods may be called concurrently.
type Reconciler struct {
	kernel kernel.Kernel
	tables kernel.Tables
	log    *slog.Logger

	syncing sync.Mutex // held by Sync from beginning to end

	mu sync.Mutex // guards the books; never held while the kernel is spoken to
}

// New returns a Reconciler that knows nothing of the kernel yet: its first Sync reads everything.
func New(k kernel.Kernel, t kernel.Tables, log *slog.Logger) *Reconciler {
	return &Reconciler{kernel: k, tables: t, log: log}
}

// Sync makes the kernel hold want.
func (r *Reconciler) Sync(ctx context.Context, want kernel.State) (Result, error) {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	return Result{}, ctx.Err()
}

// Observe compares a kernel notification with what is known; it reports whether a Sync is due.
func (r *Reconciler) Observe(ev kernel.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ev.Lost
}

// Resync makes the next Sync read everything again.
func (r *Reconciler) Resync() {}
