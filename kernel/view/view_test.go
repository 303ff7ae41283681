//go:build linux

package view

import (
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A view is that of the thread's namespace, and whole.
func TestLook(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread must not be used again
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	for _, line := range []string{"ip link add br7 type bridge", "ip link set br7 up", "ip addr add 192.0.2.1/24 dev br7", "nft add table inet twill-x"} {
		fields := strings.Fields(line)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	v := Look(t.Context())
	has := func(lines []string, part string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
	}
	if !has(v.Links, "br7 mtu 1500 kind bridge up") || !has(v.Addresses, "192.0.2.1/24 dev br7") || !has(v.Routes, "192.0.2.0/24 dev br7") ||
		!strings.Contains(v.Tables, "table inet twill-x {") || v.Sysctls["net/ipv4/ip_forward"] == "" || v.Sysctls["net/ipv4/conf/br7/rp_filter"] == "" ||
		!strings.HasPrefix(v.Release, "Linux ") || len(v.Unknown) != 0 {
		t.Errorf("%+v", v)
	}
}
