//go:build linux

package linux

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// enterNamespace puts the test into a network namespace of its own with the loopback device up. The thread ends with the
// test's goroutine, and the namespace with the thread.
func enterNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread must not be used again
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	ip(t, "link set lo up")
}

// open returns a Handle on a new network namespace.
func open(t testing.TB, options ...Option) *Handle {
	t.Helper()
	enterNamespace(t)
	h, err := Open(slog.New(slog.NewTextHandler(io.Discard, nil)), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// ip runs ip(8) in the namespace of the test: the second opinion on what the kernel holds.
func ip(t testing.TB, args string) string { t.Helper(); return run(t, "ip "+args) }

func run(t testing.TB, command string) string {
	t.Helper()
	// A subtest has a goroutine of its own, which may be on any thread.
	if here, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || here == parentNamespace(t) {
		t.Fatalf("%s: would run in the machine's own network namespace (%v)", command, err)
	}
	fields := strings.Fields(command)
	out, err := exec.CommandContext(context.Background(), fields[0], fields[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// setUp runs ip(8) once for each line.
func setUp(t testing.TB, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" {
			ip(t, line)
		}
	}
}

// The kernel's own part in what ip(8) prints, which it works on after the command that caused it has ended: the operational state of links
// (net/core/link_watch.c), and IPv6 addresses and routes of its own (net/ipv6/addrconf.c).
var kernelsOwn = regexp.MustCompile(`(?m) state [A-Z]+|\bNO-CARRIER,|,LOWER_UP\b|,M-DOWN\b| tentative|^ +inet6 fe80:.*\n.*\n?|^(local|anycast|multicast|fe80:).* proto kernel .*\n?`)

// kept is what ip(8) prints, without what the kernel changes by itself: for tests that nothing was changed.
func kept(t testing.TB, args string) string {
	t.Helper()
	return kernelsOwn.ReplaceAllString(ip(t, args), "")
}

// parentNamespace is the network namespace of the process that started the tests: the machine's own.
func parentNamespace(t testing.TB) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}
