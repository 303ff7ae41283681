package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

const bit = 0x40

// cut is a decision that all of the flows with the endpoint get the bit and no others have it.
func cut(endpoints string) func(Flow) (uint32, bool) {
	return func(f Flow) (uint32, bool) {
		if slices.Contains(strings.Fields(endpoints), f.Endpoint.Addr().String()) {
			return bit, true
		}
		return 0, true
	}
}

var markOf = regexp.MustCompile(`^(\w+).*?src=(\S+) dst=(\S+).* src=(\S+) dst=.* mark=(\d+)`)

// marks returns protocol, client, destination, endpoint and mark of all entries whose mark is not 0.
func marks(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(run(t, "conntrack", "-L", "-f", family)) {
			if m := markOf.FindStringSubmatch(line); m != nil && m[5] != "0" {
				out = append(out, strings.Join(m[1:], " "))
			}
		}
	}
	slices.Sort(out)
	return out
}

func insertICMP(t *testing.T) {
	t.Helper()
	run(t, "conntrack", "-I", "-p", "icmp", "-s", "192.0.2.100", "-d", "10.5.1.7", "--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "77", "-t", "60")
	run(t, "conntrack", "-I", "-p", "icmpv6", "-s", "2001:db8::100", "-d", "2001:db8::2", "--icmpv6-type", "128", "--icmpv6-code", "0", "--icmpv6-id", "77", "-t", "60")
}

func TestRemark(t *testing.T) {
	const client, client6 = "192.0.2.100", "2001:db8::100"
	translated := "udp " + client + " 198.51.100.1 10.5.1.7 "
	direct := "udp " + client + " 10.5.1.7 10.5.1.7 "
	ping := "icmp " + client + " 10.5.1.7 10.5.1.7 "
	six := []string{"icmpv6 " + client6 + " 2001:db8::2 2001:db8::2 64", "udp " + client6 + " 2001:db8::2 2001:db8::2 64"}
	at := netip.MustParseAddr
	tests := []struct {
		name  string
		flows Flows
		of    string
		want  []string
	}{
		{"every protocol", Flows{}, "10.5.1.7", []string{ping + "64", direct + "64", translated + "64"}},
		{"one protocol", Flows{Protocol: unix.IPPROTO_UDP}, "10.5.1.7", []string{direct + "64", translated + "64"}},
		{"IPv6", Flows{IPv6: true}, "2001:db8::2", six},
		{"both families", Flows{Both: true}, "10.5.1.7 2001:db8::2", []string{ping + "64", six[0], direct + "64", translated + "64", six[1]}},
		{"of one client", Flows{Src: at(client)}, "10.5.1.7", []string{ping + "64", direct + "64", translated + "64"}},
		{"of another client", Flows{Src: at("192.0.2.101")}, "10.5.1.7", nil},
		{"of one endpoint", Flows{Endpoint: at("10.5.1.7")}, "10.5.1.7", []string{ping + "64", direct + "64", translated + "64"}},
		{"of one endpoint and protocol", Flows{Endpoint: at("::ffff:10.5.1.7"), Protocol: unix.IPPROTO_ICMP}, "10.5.1.7", []string{ping + "64"}},
		{"of client and endpoint", Flows{Src: at(client), Endpoint: at("10.5.1.8")}, "10.5.1.7", nil},
		{"of one IPv6 client", Flows{IPv6: true, Src: at(client6)}, "2001:db8::2", six},
		{"of another IPv6 client", Flows{IPv6: true, Src: at("2001:db8::101")}, "2001:db8::2", nil},
		{"of one IPv6 endpoint", Flows{IPv6: true, Protocol: unix.IPPROTO_UDP, Endpoint: at("2001:db8::2")}, "2001:db8::2", six[1:]},
		{"of one destination", Flows{Protocol: unix.IPPROTO_UDP, Dst: netip.MustParseAddrPort("198.51.100.1:53")}, "10.5.1.7", []string{translated + "64"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t)
			fill(t)
			insertICMP(t)
			before := entries(t)
			for _, want := range []int{len(tt.want), 0} { // the second time there is nothing to be done
				n, err := Remark(t.Context(), tt.flows, bit, cut(tt.of))
				if n != want || err != nil {
					t.Errorf("changed %d, %v; want %d", n, err, want)
				}
				if diff := cmp.Diff(tt.want, marks(t)); diff != "" {
					t.Error(diff)
				}
			}
			n, err := Remark(t.Context(), tt.flows, bit, cut("nobody"))
			if n != len(tt.want) || err != nil {
				t.Errorf("took back %d, %v; want %d", n, err, len(tt.want))
			}
			if have := marks(t); len(have) > 0 {
				t.Errorf("have %v", have)
			}
			if diff := cmp.Diff(before, entries(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRemarkLeavesOtherBits has marks of other programs, whose bits stay.
func TestRemarkLeavesOtherBits(t *testing.T) {
	inNamespace(t)
	fill(t)
	run(t, "conntrack", "-U", "-p", "udp", "-d", "198.51.100.2", "-m", "0xff0f0f41")
	const want = "udp 192.0.2.100 198.51.100.2 198.51.100.2 "
	for _, step := range []struct {
		of, want string
		changed  int
	}{
		{"198.51.100.2", want + fmt.Sprint(0xff0f0f41), 0},
		{"nobody", want + fmt.Sprint(0xff0f0f01), 1},
		{"198.51.100.2", want + fmt.Sprint(0xff0f0f41), 1},
	} {
		n, err := Remark(t.Context(), Flows{}, bit, cut(step.of))
		if n != step.changed || err != nil {
			t.Errorf("changed %d, %v; want %d", n, err, step.changed)
		}
		if diff := cmp.Diff([]string{step.want}, marks(t)); diff != "" {
			t.Error(diff)
		}
	}
	// What is set outside the mask does not count.
	n, err := Remark(t.Context(), Flows{}, bit, func(f Flow) (uint32, bool) { return 0xffffffff &^ bit, f.Mark == 0 })
	if n != 0 || err != nil || len(marks(t)) != 1 {
		t.Errorf("changed %d, %v: %v", n, err, marks(t))
	}
}

// TestFlowsTell has a flow of each kind, with all that a policy judges by.
func TestFlowsTell(t *testing.T) {
	inNamespace(t)
	insert(t, 1, "udp", "198.51.100.1:53", "10.5.1.7:5353")
	insert(t, 2, "tcp", "[2001:db8::1]:80", "[2001:db8::7]:8080")
	insertICMP(t)
	if n, err := Remark(t.Context(), Flows{Protocol: unix.IPPROTO_UDP}, 0x80000001, func(Flow) (uint32, bool) { return 0xffffffff, true }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	var have []Flow
	for _, v6 := range []bool{false, true} {
		from := len(have)
		err := Each(t.Context(), Flows{IPv6: v6}, func() { have = have[:from] }, func(f Flow) {
			f.ID = 0
			have = append(have, f)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(have, func(a, b Flow) int { return int(a.Protocol) - int(b.Protocol) })
	at := netip.MustParseAddrPort
	want := []Flow{
		{Protocol: unix.IPPROTO_ICMP, Src: at("192.0.2.100:0"), Dst: at("10.5.1.7:0"), Endpoint: at("10.5.1.7:0")},
		{Protocol: unix.IPPROTO_TCP, Src: at("[2001:db8::100]:1002"), Dst: at("[2001:db8::1]:80"), Endpoint: at("[2001:db8::7]:8080"), TCPState: tcpEstablished},
		{Protocol: unix.IPPROTO_UDP, Src: at("192.0.2.100:1001"), Dst: at("198.51.100.1:53"), Endpoint: at("10.5.1.7:5353"), Mark: 0x80000001},
		{Protocol: unix.IPPROTO_ICMPV6, Src: at("[2001:db8::100]:0"), Dst: at("[2001:db8::2]:0"), Endpoint: at("[2001:db8::2]:0")},
	}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(have)); diff != "" {
		t.Error(diff)
	}
}

func TestRemarkCancelled(t *testing.T) {
	inNamespace(t)
	fill(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := Remark(ctx, Flows{}, bit, func(Flow) (uint32, bool) { return bit, true }); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("changed %d, %v", n, err)
	}
}

// TestRemarkOfWhatGoes removes each flow between its listing and the change of its mark: nothing is made anew.
func TestRemarkOfWhatGoes(t *testing.T) {
	inNamespace(t)
	fill(t)
	n, err := Remark(t.Context(), Flows{}, bit, func(Flow) (uint32, bool) {
		if out, err := exec.Command("conntrack", "-F").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return bit, true
	})
	if n != 0 || err != nil {
		t.Errorf("changed %d, %v", n, err)
	}
	if have := entries(t); slices.ContainsFunc(have, func(e string) bool { return !strings.Contains(e, "2001:") }) {
		t.Errorf("have %v", have)
	}
}

// conversation is a connection whose ends take turns.
type conversation struct {
	name           string
	client, server net.Conn
}

// flows sends something each way, and reports whether it arrived. A datagram that a rule drops is an error of the send.
func (c conversation) flows(t *testing.T, patience time.Duration) (there, back bool) {
	t.Helper()
	pass := func(from, to net.Conn) bool {
		if _, err := from.Write([]byte("x")); err != nil {
			return false
		}
		if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := to.Read(make([]byte, 1))
		return n == 1 && err == nil
	}
	return pass(c.client, c.server), pass(c.server, c.client)
}

// dialTCP connects two ends over loopback.
func dialTCP(t *testing.T, addr string) conversation {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return conversation{"tcp " + addr, client, server}
}

func dialUDP(t *testing.T, ip string) conversation {
	t.Helper()
	here := &net.UDPAddr{IP: net.ParseIP(ip)}
	first, err := net.ListenUDP("udp", here)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.DialUDP("udp", here, first.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	server, err := net.DialUDP("udp", first.LocalAddr().(*net.UDPAddr), client.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return conversation{"udp " + ip, client, server}
}

// TestCutConnections is what marks are for: a rule that drops what bears the bit stops both directions of an established connection, and those that do
// not bear it go on.
func TestCutConnections(t *testing.T) {
	inNamespace(t)
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "nft", "table inet t { chain c { type filter hook output priority 0; ct mark & 0x40 == 0x40 drop; }; }")
	var all []conversation
	for _, addr := range []string{"127.0.0.1", "::1"} {
		all = append(all, dialTCP(t, net.JoinHostPort(addr, "0")), dialUDP(t, addr))
	}
	other := dialTCP(t, "127.0.0.2:0")
	const soon, atLast = 300 * time.Millisecond, 20 * time.Second
	for _, c := range append(all, other) {
		if there, back := c.flows(t, atLast); !there || !back {
			t.Fatalf("%s does not work: %v, %v", c.name, there, back)
		}
	}
	set := func(mark uint32, want int) {
		t.Helper()
		changed := 0
		for _, v6 := range []bool{false, true} {
			n, err := Remark(t.Context(), Flows{IPv6: v6}, bit, func(f Flow) (uint32, bool) {
				return mark, f.Endpoint.Addr() != netip.MustParseAddr("127.0.0.2")
			})
			if err != nil {
				t.Fatal(err)
			}
			changed += n
		}
		if changed != want {
			t.Errorf("%d entries have another mark, want %d", changed, want)
		}
	}
	set(bit, len(all))
	for _, c := range all {
		if there, back := c.flows(t, soon); there || back {
			t.Errorf("%s goes on: %v, %v", c.name, there, back)
		}
	}
	if there, back := other.flows(t, atLast); !there || !back {
		t.Errorf("%s was cut, too: %v, %v", other.name, there, back)
	}
	set(0, len(all))
	for _, c := range all {
		if there, back := c.flows(t, atLast); !there || !back {
			t.Errorf("%s is still cut: %v, %v", c.name, there, back)
		}
	}
}

// inject makes n UDP flows between as many clients and 100 endpoints, straight over netlink.
func inject(tb testing.TB, n int) {
	tb.Helper()
	s, err := nfnl.Open()
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	for i := range n {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 16), byte(i >> 8)}), uint16(1000+i&0xff))
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i % 100)}), 53)
		m := nfnl.Message{Type: msgNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: unix.AF_INET}
		way := func(direction uint16, from, to netip.AddrPort) {
			m.Attrs.Nest(direction, func(a *nfnl.Attrs) {
				a.Nest(ctaTupleIP, func(a *nfnl.Attrs) {
					a.Bytes(ctaIPv4Src, from.Addr().AsSlice())
					a.Bytes(ctaIPv4Dst, to.Addr().AsSlice())
				})
				a.Nest(ctaTupleProto, func(a *nfnl.Attrs) {
					a.Bytes(ctaProtoNum, []byte{unix.IPPROTO_UDP})
					a.Bytes(ctaProtoSrcPort, binary.BigEndian.AppendUint16(nil, from.Port()))
					a.Bytes(ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, to.Port()))
				})
			})
		}
		way(ctaTupleOrig, client, server)
		way(ctaTupleReply, server, client)
		m.Attrs.Uint32(7, 600) // CTA_TIMEOUT, in seconds
		if err := s.Do(m); err != nil {
			tb.Fatalf("entry %d: %v", i, err)
		}
	}
}

// BenchmarkRemark is what 100,000 entries cost: to be judged, to be marked all of them, and to be searched for those of one address.
func BenchmarkRemark(b *testing.B) {
	const n = 100_000
	mark := uint32(0)
	for _, bb := range []struct {
		name   string
		flows  Flows
		decide func(Flow) (uint32, bool)
		want   int
	}{
		{"judged", Flows{}, func(Flow) (uint32, bool) { return 0, false }, 0},
		{"of one endpoint", Flows{Endpoint: netip.MustParseAddr("10.2.0.7")}, func(Flow) (uint32, bool) { return 0, false }, 0},
		{"marked", Flows{}, func(Flow) (uint32, bool) { return mark, true }, n},
	} {
		b.Run(bb.name, func(b *testing.B) {
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0); err != nil {
				b.Fatal(err)
			}
			inject(b, n)
			b.ReportAllocs()
			for b.Loop() {
				mark ^= bit
				have, err := Remark(b.Context(), bb.flows, bit, bb.decide)
				if err != nil || have != bb.want {
					b.Fatalf("changed %d, %v; want %d", have, err, bb.want)
				}
			}
		})
	}
}
