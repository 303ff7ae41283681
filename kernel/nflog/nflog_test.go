package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

const group = 84

// inNamespace moves the test's thread into a new network namespace, in which whatever is sent is copied to the group and dropped.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends a locked thread with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (tests of kernel/nflog need root): %v", err)
	}
	for _, command := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"nft", fmt.Sprintf(`table inet t { chain c { type filter hook output priority 0; log prefix "refused: out" group %d snaplen 128 drop; }; }`, group)},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
}

func open(t *testing.T) *Reader {
	t.Helper()
	r, err := Open(group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// receive runs the reader until each returns false.
func receive(t *testing.T, r *Reader, each func(Packet) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := r.Run(ctx, func(p Packet) {
		if !each(p) {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Run returned %v", err)
	}
}

// send sends what is refused on its way out: that it was dropped is an error of the send, except for TCP, where it is a wait.
func send(t *testing.T, protocol int, to netip.AddrPort) {
	t.Helper()
	family, typ := unix.AF_INET, unix.SOCK_RAW
	var at unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(to.Addr().AsSlice()), Port: int(to.Port())}
	if to.Addr().Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	echo := map[int]byte{unix.IPPROTO_ICMP: 8, unix.IPPROTO_ICMPV6: 128}[protocol]
	switch protocol {
	case unix.IPPROTO_TCP:
		typ = unix.SOCK_STREAM
	case unix.IPPROTO_UDP:
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if protocol == unix.IPPROTO_TCP {
		err = unix.Connect(fd, at)
	} else {
		err = unix.Sendto(fd, []byte{echo, 0, 0, 0, 0, 1, 0, 1}, 0, at)
	}
	if !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EPERM) {
		t.Fatalf("send protocol %d to %s: %v", protocol, to, err)
	}
}

func TestPackets(t *testing.T) {
	inNamespace(t)
	r := open(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	four, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	want := map[string]Packet{}
	for _, w := range []Header{
		{Src: four, Dst: four, Protocol: unix.IPPROTO_TCP, DstPort: 80},
		{Src: six, Dst: six, Protocol: unix.IPPROTO_TCP, DstPort: 80},
		{Src: four, Dst: four, Protocol: unix.IPPROTO_UDP, DstPort: 53, Length: 36},
		{Src: six, Dst: six, Protocol: unix.IPPROTO_UDP, DstPort: 53, Length: 56},
		{Src: four, Dst: four, Protocol: unix.IPPROTO_ICMP, ICMPType: 8, Length: 28},
		{Src: six, Dst: six, Protocol: unix.IPPROTO_ICMPV6, ICMPType: 128, Length: 48},
	} {
		send(t, int(w.Protocol), netip.AddrPortFrom(w.Dst, w.DstPort))
		want[fmt.Sprint(w.Protocol, w.Dst)] = Packet{Header: w, Prefix: "refused: out", Out: uint32(lo.Index)}
	}
	have := map[string]Packet{}
	receive(t, r, func(p Packet) bool {
		key := fmt.Sprint(p.Protocol, p.Dst)
		if _, asked := want[key]; !asked {
			return true // of the kernel's own
		}
		switch p.Protocol {
		case unix.IPPROTO_TCP:
			if p.Length < 60 || p.SrcPort == 0 {
				t.Errorf("a TCP packet is %v", p)
			}
			p.Length, p.SrcPort = 0, 0
		case unix.IPPROTO_UDP:
			p.SrcPort = 0
		}
		have[key] = p
		return len(have) < len(want)
	})
	if diff := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(Packet{}, "Time")); diff != "" {
		t.Error(diff)
	}
	if r.Lost() != 0 {
		t.Errorf("%d packets are said to be lost", r.Lost())
	}
}

// TestBurst has more packets come than there is room for while nobody reads.
func TestBurst(t *testing.T) {
	inNamespace(t)
	r := open(t)
	const burst = 50_000
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := uint64(0)
	write := func(text []byte) {
		sent++
		if _, err := conn.Write(text); !errors.Is(err, unix.EPERM) {
			t.Errorf("the packet was not dropped: %v", err)
		}
	}
	for range burst {
		write(make([]byte, 100))
	}
	received := uint64(0)
	receive(t, r, func(p Packet) bool {
		received++
		if received == 1 {
			write([]byte("x")) // may be the next one after those that were lost
		}
		if received%1000 == 0 {
			write([]byte("x"))
		}
		return p.Length != 29
	})
	t.Logf("%d of %d packets were received, %d lost", received, sent, r.Lost())
	if r.Lost() == 0 || received == 0 || received+r.Lost() > sent || received+r.Lost() < burst {
		t.Errorf("%d of %d packets were received, %d lost", received, sent, r.Lost())
	}
}

func TestGroupInUse(t *testing.T) {
	inNamespace(t)
	first := open(t)
	if _, err := Open(group); !errors.Is(err, unix.EPERM) {
		t.Errorf("have %v, want EPERM", err)
	}
	other, err := Open(group + 1)
	if err != nil {
		t.Fatalf("another group: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(group)
	if err != nil {
		t.Fatalf("a group that was given up: %v", err)
	}
	first.listener = again.listener // to be closed by the test's cleanup
}

func TestRunEnds(t *testing.T) {
	inNamespace(t)
	r, err := Open(group)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx, func(Packet) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
	done := make(chan error)
	go func() { done <- r.Run(context.Background(), func(Packet) {}) }()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("Run of a closed reader returned nil")
	}
}

func FuzzDecode(f *testing.F) {
	for _, h := range headers {
		var a nfnl.Attrs
		a.String(attrPrefix, "x")
		a.Bytes(attrTimestamp, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), 2))
		a.Uint32(attrSequence, 7)
		a.Bytes(attrPayload, h.bytes())
		f.Add([]byte(a))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		one, number, err := decode(b)
		two, again, errAgain := decode(b)
		if one != two || number != again || (err == nil) != (errAgain == nil) {
			t.Errorf("%v and %v of the same bytes", one, two)
		}
	})
}
