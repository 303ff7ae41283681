package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

const enough = 10 * time.Second

// start starts a shell that says "ready" on its standard output and then waits to be ended.
func start(t *testing.T, script string) (ID, string) {
	t.Helper()
	pidfile := filepath.Join(t.TempDir(), "pid")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := exec.Command("sh", "-c", script)
	cmd.Stdout = write
	id, err := Start(cmd, pidfile)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := id.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := read.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the shell is not ready: %v", err)
	}
	return id, pidfile
}

const (
	waits    = "echo ready; exec sleep 1000"
	stubborn = "trap '' TERM; echo ready; while :; do sleep 1000; done"
)

func TestStartAndRead(t *testing.T) {
	id, pidfile := start(t, waits)
	got, err := Read(pidfile)
	if err != nil || got != id {
		t.Errorf("read %v, %v; started %v", got, err, id)
	}
	if !id.Alive() {
		t.Error("it is not alive")
	}
	if sid, err := sessionOf(id.PID); err != nil || sid != id.PID {
		t.Errorf("its session is %d, %v: a terminal's signals would reach it", sid, err)
	}
}

func sessionOf(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

func TestStopAndKill(t *testing.T) {
	tests := []struct {
		name   string
		script string
		end    func(context.Context, ID) error
	}{
		{"stop a willing process", waits, func(ctx context.Context, id ID) error { return id.Stop(ctx, enough) }},
		{"stop a stubborn process", stubborn, func(ctx context.Context, id ID) error { return id.Stop(ctx, time.Millisecond) }},
		{"kill", stubborn, func(ctx context.Context, id ID) error { return id.Kill(ctx) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), enough)
			defer cancel()
			id, _ := start(t, tt.script)
			for range 2 { // the second time it is gone, which is no error
				if err := tt.end(ctx, id); err != nil {
					t.Fatal(err)
				}
				if id.Alive() {
					t.Fatal("it is alive")
				}
			}
		})
	}
}

func TestSuspend(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	id, _ := start(t, "echo ready; while :; do :; done") // busy, so that the signal has to catch it
	for range 2 {                                        // the second time it is stopped, which is no error
		if err := id.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		if !id.Alive() || !id.suspended() {
			t.Fatalf("alive %v, stopped %v", id.Alive(), id.suspended())
		}
	}
	if err := id.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := id.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := id.Suspend(ctx); err != nil {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	id, _ := start(t, waits)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := id.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherProcessWithThatNumberIsLeftAlone(t *testing.T) {
	id, _ := start(t, waits)
	earlier := ID{PID: id.PID, Start: id.Start - 1}
	if earlier.Alive() {
		t.Error("a process that ended long ago is alive")
	}
	if err := earlier.Kill(context.Background()); err != nil {
		t.Error(err)
	}
	if !id.Alive() {
		t.Error("a stranger was killed")
	}
}

func TestStartFails(t *testing.T) {
	pidfile := filepath.Join(t.TempDir(), "pid")
	if _, err := Start(exec.Command("/nowhere/program"), pidfile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Read(pidfile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pidfile of a process that never was: %v", err)
	}
}

func TestInside(t *testing.T) {
	ns, err := netns.Create(fmt.Sprintf("twilltest-%d-process", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	}()
	outside, _ := start(t, waits)
	var inside ID
	if err := ns.Do(func() error { inside, _ = start(t, waits); return nil }); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Inside([]string{empty, "/run/netns/twilltest-missing", ns.Path()})
	if err != nil || !slices.Equal(got, []ID{inside}) {
		t.Errorf("found %v, %v; want %v and not %v", got, err, inside, outside)
	}
	if got, err := Inside([]string{empty}); err != nil || got != nil {
		t.Errorf("in no namespace: %v, %v", got, err)
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		text string
		want ID
		ok   bool
	}{
		{"12 345\n", ID{12, 345}, true},
		{"12\n", ID{}, false},
		{"", ID{}, false},
		{"0 1", ID{}, false},
		{"-1 1", ID{}, false},
		{"12 x", ID{}, false},
		{"1 2 3", ID{}, false},
		{"99999999999 1", ID{}, false},
	}
	for _, tt := range tests {
		got, err := parse(tt.text)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("parse(%q) = %v, %v", tt.text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("12 345\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := parse(text); err == nil && id.PID <= 0 {
			t.Errorf("parse(%q) = %v: a signal to it would reach many", text, id)
		}
	})
}
