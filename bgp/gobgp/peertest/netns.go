// Package peertest gives tests BGP neighbours: network namespaces on one segment, and BIRD and FRR in them.
//
//	test process (its own namespace)      br0 192.0.2.1/24, 2001:db8::1/64
//	                                       ├── veth ── host b: eth0 192.0.2.2/24
//	                                       └── veth ── host c: eth0 192.0.2.3/24
//
// A test's TestMain calls Main, which runs the tests in a network namespace without a name, so that nothing of a test is seen by the machine's
// other processes and nothing is left when it is killed.
package peertest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inside = "TWILL_PEERTEST_INSIDE"

// Main runs the tests in a network namespace of their own and returns the exit code. It needs root, and says so.
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" {
		if lo, err := netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
			if err != nil {
				fmt.Fprintln(os.Stderr, "set lo up:", err)
				return 1
			}
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make a network namespace: run them as root")
		return 1
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		fmt.Fprintln(os.Stderr, "new network namespace:", err)
		return 1
	}
	err := unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
	fmt.Fprintln(os.Stderr, "run the tests in their network namespace:", err)
	return 1
}

// Segment is a bridge that joins the test and its hosts.
type Segment struct {
	t      testing.TB
	bridge netlink.Link
	hosts  int
}

// NewSegment makes a bridge with addresses for the test process. The test's end removes it.
func NewSegment(t testing.TB, addrs ...string) *Segment {
	t.Helper()
	// With an address of its own, since it would change to that of the newest port in the middle of a neighbour's handshake.
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	must(t, "add bridge", netlink.LinkAdd(br))
	t.Cleanup(func() { must(t, "delete bridge", netlink.LinkDel(br)) })
	for _, a := range addrs {
		addAddress(t, br, a)
	}
	must(t, "set bridge up", netlink.LinkSetUp(br))
	return &Segment{t: t, bridge: br}
}

// Host is a network namespace on the segment.
type Host struct {
	t testing.TB
	// Namespace is a path by which other processes can enter.
	Namespace string
	// Port is the name of the host's port at the bridge, in the test's namespace.
	Port string
	file *os.File
}

// Host makes a namespace with the addresses on its eth0.
func (s *Segment) Host(addrs ...string) *Host {
	t := s.t
	t.Helper()
	s.hosts++
	file := newNamespace(t)
	h := &Host{t: t, file: file, Namespace: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), Port: fmt.Sprintf("port%d", s.hosts)}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.Port, MasterIndex: s.bridge.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(file.Fd())),
	}
	must(t, "add veth", netlink.LinkAdd(veth))
	t.Cleanup(func() {
		must(t, "delete veth", netlink.LinkDel(veth))
		must(t, "close namespace", file.Close())
	})
	must(t, "set port up", netlink.LinkSetUp(veth))

	inside, err := netlink.NewHandleAt(nsHandle(file))
	must(t, "open netlink in the namespace", err)
	defer inside.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		must(t, "find "+name, err)
		must(t, "set "+name+" up", inside.LinkSetUp(link))
		if name == "eth0" {
			for _, a := range addrs {
				must(t, "add address "+a, inside.AddrAdd(link, address(t, a)))
			}
		}
	}
	return h
}

// Command returns a command that runs in the host's namespace, with the process ID of the program itself.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.Namespace, name}, args...)...)
}

// Run runs a program in the host's namespace to its end.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Command(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Eventually waits until ok returns true, and fails the test if that takes longer than limit.
func Eventually(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if ok() {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			tick.Stop()
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

func newNamespace(t testing.TB) *os.File {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	ch := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ch <- made{nil, err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		ch <- made{file, err}
	}()
	m := <-ch
	must(t, "new network namespace", m.err)
	return m.file
}

func addAddress(t testing.TB, link netlink.Link, addr string) {
	t.Helper()
	must(t, "add address "+addr, netlink.AddrAdd(link, address(t, addr)))
}

// address has no duplicate address detection, which would keep it from being used for two seconds.
func address(t testing.TB, addr string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	must(t, "parse "+addr, err)
	if netip.MustParsePrefix(addr).Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
