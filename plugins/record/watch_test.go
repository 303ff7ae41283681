//go:build linux

package record

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twill-cni/twill/plugins/attach"
)

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	start := func() {
		go func() {
			ended <- Watch(ctx, dir, "net", func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		}()
	}
	told := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatalf("not told: %s", what)
		}
	}
	start()
	told("that it watches")
	s, r := Open(dir, "net"), attach.Record{Network: "net", ContainerID: "c", IfName: "eth0"}
	e, err := s.Begin(r)
	if err != nil {
		t.Fatal(err)
	}
	told("begin")
	if err := e.Commit(); err != nil {
		t.Fatal(err)
	}
	told("commit")
	e.Close()
	if err := s.Retire(r.Owner()); err != nil {
		t.Fatal(err)
	}
	told("retire")
	if err := s.Remove(r.Owner()); err != nil {
		t.Fatal(err)
	}
	told("remove")
	if err := os.RemoveAll(filepath.Join(dir, "attachments")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the directory is gone, and Watch returned %v", err)
	}
	start()
	told("again")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}
