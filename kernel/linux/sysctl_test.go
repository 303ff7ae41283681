//go:build linux

package linux

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestForwarding(t *testing.T) {
	h := open(t)
	run(t, "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	check := func(want ...string) {
		t.Helper()
		err := h.CheckForwarding(true, true)
		if (err != nil) != (len(want) > 0) {
			t.Fatalf("have %v, want an error about %v", err, want)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("have %v, want an error about %s", err, w)
			}
		}
	}
	check("net.ipv4.ip_forward is 0, want 1", "net.ipv6.conf.all.forwarding is 0, want 1")
	for _, step := range []struct {
		ipv4, ipv6 bool
		left       []string
	}{
		{false, false, []string{"net.ipv4", "net.ipv6"}},
		{true, false, []string{"net.ipv6"}},
		{true, true, nil},
	} {
		if err := h.EnsureForwarding(step.ipv4, step.ipv6); err != nil {
			t.Fatal(err)
		}
		check(step.left...)
	}
}

// TestForwardingReadOnly has a /proc/sys that cannot be written, as in an unprivileged container.
func TestForwardingReadOnly(t *testing.T) {
	h := open(t)
	run(t, "sysctl -w net.ipv4.ip_forward=0")
	mountNamespace(t)
	readOnlySysctls(t)
	err := h.EnsureForwarding(true, false)
	if err == nil || !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_forward=1") {
		t.Errorf("have %v, want an error that says what to do", err)
	}
}

// TestSysctlDir has the kernel's settings at another place too, where they can be written.
func TestSysctlDir(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(slog.New(slog.DiscardHandler), WithSysctlDir(dir)); err == nil || !strings.Contains(err.Error(), "mount the host's /proc/sys/net at "+dir+"/net") {
		t.Errorf("an empty directory: have %v, want an error that says what to mount", err)
	}
	enterNamespace(t)
	mountNamespace(t)
	if err := os.Mkdir(dir+"/net", 0o755); err != nil {
		t.Fatal(err)
	}
	mount(t, "/proc/sys/net", dir+"/net", unix.MS_BIND)
	t.Cleanup(func() { _ = unix.Unmount(dir+"/net", unix.MNT_DETACH) }) // the directory is removed by this thread
	h := open(t, WithSysctlDir(dir))
	run(t, "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.netfilter.nf_conntrack_tcp_be_liberal=0")
	setUp(t, underlay)
	readOnlySysctls(t)
	link := flannel4()
	link.Sysctls = map[string]string{"ipv6/accept_ra": "0", "ipv4/route_localnet": "1"}
	if err := errors.Join(append(h.ApplyLinks(t.Context(), set(link)), h.EnsureForwarding(true, true),
		h.EnsureConntrack(ConntrackSettings{BeLiberal: true}))...); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckForwarding(true, true); err != nil {
		t.Error(err)
	}
	wantLink(t, h, link)
	const want = "1 1 1 0 1"
	have := run(t, "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.netfilter.nf_conntrack_tcp_be_liberal "+
		"net.ipv6.conf.flannel/1.accept_ra net.ipv4.conf.flannel/1.route_localnet")
	if have = strings.Join(strings.Fields(have), " "); have != want {
		t.Errorf("have %s, want %s", have, want)
	}
}

// mountNamespace moves the thread to a mount namespace of its own.
func mountNamespace(t *testing.T) {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	mount(t, "", "/", unix.MS_REC|unix.MS_PRIVATE)
}

func mount(t *testing.T, source, target string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		t.Fatalf("mount %s at %s: %v", source, target, err)
	}
}

// readOnlySysctls makes /proc/sys what it is in an unprivileged container.
func readOnlySysctls(t *testing.T) {
	t.Helper()
	mount(t, "/proc/sys", "/proc/sys", unix.MS_BIND)
	mount(t, "", "/proc/sys", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
}

// TestOtherThread calls from a goroutine whose thread is in another network namespace.
func TestOtherThread(t *testing.T) {
	h := open(t)
	setUp(t, underlay)
	run(t, "sysctl -w net.ipv4.ip_forward=0")
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		err := h.EnsureForwarding(true, false)
		if errs := h.ApplyLinks(t.Context(), set(flannel4())); err == nil && errs != nil {
			err = errs[0]
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sysctl -n net.ipv4.ip_forward"); out != "1" {
		t.Errorf("ip_forward is %s: the wrong namespace was changed", out)
	}
	wantLink(t, h, flannel4())
}

func TestBridgeNetfilter(t *testing.T) {
	h := open(t)
	ipv4, ipv6, err := h.BridgeNetfilter()
	if err != nil {
		t.Fatal(err)
	}
	if !exists(defaultSysctlDir + "/net/bridge") {
		if ipv4 || ipv6 {
			t.Error("bridged packets pass netfilter without br_netfilter")
		}
		return
	}
	run(t, "sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=0")
	if ipv4, ipv6, err = h.BridgeNetfilter(); !ipv4 || ipv6 || err != nil {
		t.Errorf("have %t, %t, %v; want true, false", ipv4, ipv6, err)
	}
}
