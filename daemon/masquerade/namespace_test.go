package masquerade

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name, held by a thread. It vanishes when the test ends.
type namespace struct {
	thread int // id, by which ip(8) finds the namespace
	work   chan func()
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	ns := &namespace{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and with it the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		ns.thread = unix.Gettid()
		ready <- err
		for f := range ns.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("unshare network namespace (this test needs root): %v", err)
	}
	t.Cleanup(func() { close(ns.work) })
	return ns
}

// do runs f in the namespace.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs the lines as commands of ip(8) in the namespace.
func (ns *namespace) ip(t *testing.T, lines ...string) {
	t.Helper()
	var out []byte
	var err error
	ns.do(func() {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("ip -batch %q: %v\n%s", lines, err, out)
	}
}

// sysctl writes values under /proc/sys/net, which shows the namespace of the thread that opens it.
func (ns *namespace) sysctl(t *testing.T, values map[string]string) {
	t.Helper()
	for name, value := range values {
		var err error
		ns.do(func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
		if err != nil {
			t.Fatal(fmt.Errorf("set sysctl %s: %w", name, err))
		}
	}
}
