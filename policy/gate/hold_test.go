package gate

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestHold(t *testing.T) {
	dir := t.TempDir()
	var inside, turns atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				release, err := Hold(t.Context(), dir)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				inside.Add(-1)
				turns.Add(1)
				release()
			}
		})
	}
	all.Wait()
	if n := turns.Load(); n != 160 {
		t.Errorf("%d turns", n)
	}
}

func TestHoldErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Hold(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("have error %v, want that the directory is not there", err)
	}
	release, err := Hold(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*holdPause)
	defer cancel()
	if _, err := Hold(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have error %v, want that the time is over", err)
	}
	release()
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if release, err = Hold(ctx, dir); err != nil {
		t.Fatal(err)
	}
	release()
}
