package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

// inNamespace moves the test's thread into a new network namespace, which vanishes with the thread at the test's end.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends a locked thread with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (tests of kernel/conntrack need root): %v", err)
	}
}

func run(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// insert makes an entry for protocol from port 1000+i of a client to dst, translated to pod when that is not empty.
func insert(t *testing.T, i int, protocol, dst, pod string) {
	t.Helper()
	to := netip.MustParseAddrPort(dst)
	client := "192.0.2.100"
	if to.Addr().Is6() {
		client = "2001:db8::100"
	}
	args := []string{"conntrack", "-I", "-p", protocol, "-s", client, "-d", to.Addr().String(),
		"--sport", fmt.Sprint(1000 + i), "--dport", fmt.Sprint(to.Port()), "-t", "60"}
	if protocol == "tcp" {
		args = append(args, "--state", "ESTABLISHED")
	}
	if pod != "" {
		at := netip.MustParseAddrPort(pod)
		args = append(args, "--dst-nat", at.Addr().String(), "-r", at.Addr().String(), "-q", client, "--reply-port-src", fmt.Sprint(at.Port()), "--reply-port-dst", fmt.Sprint(1000+i))
	}
	run(t, args...)
}

var original = regexp.MustCompile(`^(\w+)\s.*?dst=(\S+) (?:sport=\d+ dport|type)=(\d+)`)

// entries returns protocol and original destination of all entries.
func entries(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(run(t, "conntrack", "-L", "-f", family)) {
			m := original.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("conntrack -L printed %q", line)
			}
			out = append(out, m[1]+" "+netip.MustParseAddr(m[2]).String()+" "+m[3])
		}
	}
	slices.Sort(out)
	return out
}

// fill makes entries that differ from each other in one way each, and returns them.
func fill(t *testing.T) []string {
	t.Helper()
	insert(t, 0, "udp", "198.51.100.1:53", "")
	insert(t, 1, "udp", "198.51.100.1:53", "10.5.1.7:5353")
	insert(t, 2, "udp", "198.51.100.2:53", "")
	insert(t, 3, "udp", "198.51.100.1:54", "")
	insert(t, 4, "tcp", "198.51.100.1:53", "")
	insert(t, 5, "udp", "10.5.1.7:5353", "")
	insert(t, 6, "udp", "[2001:db8::1]:53", "")
	insert(t, 7, "udp", "[2001:db8::2]:53", "")
	return entries(t)
}

func TestFlushUDP(t *testing.T) {
	tests := []struct {
		name string
		dst  string
		gone []string
	}{
		{"one address", "198.51.100.1:53", []string{"udp 198.51.100.1 53", "udp 198.51.100.1 53"}},
		{"mapped address", "[::ffff:198.51.100.2]:53", []string{"udp 198.51.100.2 53"}},
		{"the translated destination is not meant", "10.5.1.7:5353", []string{"udp 10.5.1.7 5353"}},
		{"any IPv4 address", "0.0.0.0:53", []string{"udp 198.51.100.1 53", "udp 198.51.100.1 53", "udp 198.51.100.2 53"}},
		{"IPv6", "[2001:db8::1]:53", []string{"udp 2001:db8::1 53"}},
		{"any IPv6 address", "[::]:53", []string{"udp 2001:db8::1 53", "udp 2001:db8::2 53"}},
		{"no entry", "203.0.113.1:53", nil},
	}
	ways := map[string]func(t *testing.T, dst netip.AddrPort) error{
		"removed by the kernel": func(t *testing.T, dst netip.AddrPort) error { return FlushUDP(t.Context(), dst) },
		"listed first": func(t *testing.T, dst netip.AddrPort) error {
			socket, err := nfnl.Open()
			if err != nil {
				t.Fatal(err)
			}
			return errors.Join(flushListed(t.Context(), socket, Match{Protocol: unix.IPPROTO_UDP, Dst: dst}.unmapped()), socket.Close())
		},
	}
	for way, flush := range ways {
		for _, tt := range tests {
			t.Run(way+"/"+tt.name, func(t *testing.T) {
				inNamespace(t)
				want := fill(t)
				for _, e := range tt.gone {
					i := slices.Index(want, e)
					want = slices.Delete(want, i, i+1)
				}
				if err := flush(t, netip.MustParseAddrPort(tt.dst)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, entries(t)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestFlushOfOneEndpoint removes the entries of one endpoint of a service, and leaves those of its others and of its other ports.
func TestFlushOfOneEndpoint(t *testing.T) {
	for name, a := range map[string]struct{ service, other, gone, stays string }{
		"IPv4": {"10.96.0.10", "10.96.0.11", "10.5.1.7", "10.5.1.8"},
		"IPv6": {"fd00:96::10", "fd00:96::11", "fd00:5::7", "fd00:5::8"},
	} {
		for _, protocol := range []string{"udp", "tcp"} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				inNamespace(t)
				at := func(addr string, port uint16) string {
					return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
				}
				insert(t, 0, protocol, at(a.service, 53), at(a.gone, 5353))
				insert(t, 1, protocol, at(a.service, 53), at(a.stays, 5353))
				insert(t, 2, protocol, at(a.service, 54), at(a.gone, 5353))
				insert(t, 3, protocol, at(a.service, 53), at(a.gone, 5354))
				insert(t, 4, protocol, at(a.other, 53), at(a.gone, 5353))
				insert(t, 5, map[string]string{"udp": "tcp", "tcp": "udp"}[protocol], at(a.service, 53), at(a.gone, 5353))
				number := map[string]uint8{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[protocol]
				want := entries(t)
				i := slices.Index(want, protocol+" "+a.service+" 53")
				want = slices.Delete(want, i, i+1)
				m := Match{Protocol: number, Dst: netip.MustParseAddrPort(at(a.service, 53)), Endpoint: netip.MustParseAddrPort(at(a.gone, 5353))}
				if err := Flush(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, entries(t)); diff != "" {
					t.Error(diff)
				}
				left := run(t, "conntrack", "-L", "-f", strings.ToLower(name), "-p", protocol)
				if strings.Count(left, "src="+a.stays) != 1 {
					t.Errorf("the entry of the endpoint that stays is gone:\n%s", left)
				}
			})
		}
	}
}

func TestFlushUDPOfEmptyTable(t *testing.T) {
	inNamespace(t)
	if err := FlushUDP(t.Context(), netip.MustParseAddrPort("0.0.0.0:53")); err != nil {
		t.Error(err)
	}
}

func TestFlushUDPCancelled(t *testing.T) {
	inNamespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := FlushUDP(ctx, netip.MustParseAddrPort("0.0.0.0:53")); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want %v", err, context.Canceled)
	}
}

// TestStaleDatagrams shows what the package is for: a client's datagrams go on to the old destination of a port until the
// entry is flushed, and to the new one with the next datagram.
func TestStaleDatagrams(t *testing.T) {
	inNamespace(t)
	run(t, "ip", "link", "set", "lo", "up")
	rule := func(port int) string {
		return fmt.Sprintf("table ip t; delete table ip t; table ip t { chain c { type nat hook output priority -100; udp dport 53 dnat to 127.0.0.1:%d; }; }", port)
	}
	listen := func() (*net.UDPConn, int) {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn, conn.LocalAddr().(*net.UDPAddr).Port
	}
	before, beforePort := listen()
	after, afterPort := listen()
	client, err := net.Dial("udp4", "127.0.0.9:53")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// Datagrams on loopback are delivered before send returns, so that the two receivers can be looked at without waiting.
	send := func(datagram string, to *net.UDPConn) {
		t.Helper()
		if _, err := client.Write([]byte(datagram)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		n, err := to.Read(b)
		if err != nil || string(b[:n]) != datagram {
			t.Fatalf("received %q, %v; want %q", b[:n], err, datagram)
		}
	}
	run(t, "nft", rule(beforePort))
	send("1", before)
	run(t, "nft", rule(afterPort))
	send("2", before)
	if err := FlushUDP(t.Context(), netip.MustParseAddrPort("127.0.0.9:53")); err != nil {
		t.Fatal(err)
	}
	send("3", after)
}

func BenchmarkFlushUDP(b *testing.B) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := FlushUDP(b.Context(), netip.MustParseAddrPort("192.0.2.1:53")); err != nil {
			b.Fatal(err)
		}
	}
}
