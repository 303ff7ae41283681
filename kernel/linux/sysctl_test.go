//go:build linux

package linux

import (
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
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{
		{"", "/", unix.MS_REC | unix.MS_PRIVATE},
		{"/proc/sys", "/proc/sys", unix.MS_BIND},
		{"", "/proc/sys", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	} {
		if err := unix.Mount(m.source, m.target, "", m.flags, ""); err != nil {
			t.Fatalf("mount %v: %v", m, err)
		}
	}
	err := h.EnsureForwarding(true, false)
	if err == nil || !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_forward=1") {
		t.Errorf("have %v, want an error that says what to do", err)
	}
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
	if !exists(procNet + "/bridge") {
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
