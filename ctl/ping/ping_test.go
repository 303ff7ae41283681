package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

const enough = 10 * time.Second

// namespace makes a network namespace whose loopback is up, with a route to nowhere.
func namespace(t *testing.T) netns.Namespace {
	t.Helper()
	ns, err := netns.Create(fmt.Sprintf("twilltest-%d-ping", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		dst, err := netlink.ParseIPNet("198.51.100.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func listen(t *testing.T, ns netns.Namespace, addr netip.Addr) *Conn {
	t.Helper()
	var c *Conn
	err := ns.Do(func() (err error) {
		c, err = Listen(addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestPing(t *testing.T) {
	ns := namespace(t)
	tests := []struct {
		name string
		dst  string
		size int
		want Stats
		err  error
	}{
		{name: "IPv4", dst: "127.0.0.1", want: Stats{Sent: 3, Received: 3}},
		{name: "IPv6", dst: "::1", want: Stats{Sent: 3, Received: 3}},
		{name: "large", dst: "127.0.0.1", size: 60000, want: Stats{Sent: 3, Received: 3}},
		{name: "no route", dst: "203.0.113.1", want: Stats{Sent: 1}, err: unix.ENETUNREACH},
		{name: "no route, IPv6", dst: "2001:db8::1", want: Stats{Sent: 1}, err: unix.ENETUNREACH},
		{name: "black hole", dst: "198.51.100.1", want: Stats{Sent: 1}, err: unix.EINVAL},
	}
	for _, tt := range tests {
		ping := func(t *testing.T, c *Conn) {
			dst := netip.MustParseAddr(tt.dst)
			got := c.Ping(context.Background(), dst, Options{Count: 3, Timeout: enough, Size: tt.size})
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Stats{}, "Min", "Avg", "Max", "Gap", "Err")); diff != "" {
				t.Error(diff)
			}
			if !errors.Is(got.Err, tt.err) {
				t.Errorf("the reason is %v, want %v", got.Err, tt.err)
			}
			if got.Received > 0 && (got.Min <= 0 || got.Avg < got.Min || got.Max < got.Avg) {
				t.Errorf("times are not in order: %+v", got)
			}
		}
		t.Run(tt.name, func(t *testing.T) { ping(t, listen(t, ns, netip.MustParseAddr(tt.dst))) })
		t.Run(tt.name+", unprivileged", func(t *testing.T) { ping(t, listenUnprivileged(t, ns, netip.MustParseAddr(tt.dst))) })
	}
}

// withoutRights calls f on a thread in the namespace that has no capability, with a range of groups that may send echo requests.
func withoutRights(t *testing.T, ns netns.Namespace, groups string, f func() error) error {
	t.Helper()
	return ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0); err != nil {
			return err
		}
		header, sets := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		none := [2]unix.CapUserData{{Permitted: sets[0].Permitted}, {Permitted: sets[1].Permitted}}
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		return errors.Join(f(), unix.Capset(&header, &sets[0])) // the thread may go on to serve others
	})
}

func listenUnprivileged(t *testing.T, ns netns.Namespace, addr netip.Addr) *Conn {
	t.Helper()
	var c *Conn
	if err := withoutRights(t, ns, "0 2147483647", func() (err error) {
		c, err = Listen(addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, ok := c.socket.(*net.UDPConn); !ok {
		t.Fatalf("without rights the socket is a %T", c.socket)
	}
	return c
}

// Who may have neither kind of socket is told what would mend it.
func TestNoRights(t *testing.T) {
	ns := namespace(t)
	err := withoutRights(t, ns, "1 0", func() error {
		c, err := Listen(netip.MustParseAddr("127.0.0.1"))
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "net.ipv4.ping_group_range") {
		t.Error(err)
	}
}

func TestNoReplyIsATimeout(t *testing.T) {
	ns := namespace(t)
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/icmp_echo_ignore_all", []byte("1"), 0) })
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.MustParseAddr("127.0.0.1")
	got := listen(t, ns, dst).Ping(context.Background(), dst, Options{Count: 3, Timeout: 10 * time.Millisecond})
	if got.Sent != 1 || got.Received != 0 || !errors.Is(got.Err, ErrNoReply) {
		t.Errorf("got %+v", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	ns, dst := namespace(t), netip.MustParseAddr("127.0.0.1")
	conns := []*Conn{listen(t, ns, dst), listen(t, ns, dst)} // each sees the other's replies
	results := make(chan error)
	const each = 100
	for _, c := range conns {
		for range each {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), enough)
				defer cancel()
				_, err := c.Echo(ctx, dst, 0)
				results <- err
			}()
		}
	}
	for range len(conns) * each {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	for _, c := range conns {
		if len(c.waiting) != 0 {
			t.Errorf("%d requests still wait", len(c.waiting))
		}
	}
}

func TestStreamCountsAnOutage(t *testing.T) {
	ns, dst := namespace(t), netip.MustParseAddr("127.0.0.1")
	c := listen(t, ns, dst)
	set := func(value string) {
		if err := ns.Sysctl("ipv4/icmp_echo_ignore_all", value); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan Stats)
	go func() {
		done <- c.Stream(ctx, dst, Options{Interval: time.Millisecond, Timeout: 50 * time.Millisecond})
	}()
	await := func(what string, until func() bool) {
		for deadline := time.Now().Add(enough); !until(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("in vain waited for: %s", what)
			}
		}
	}
	progressed := func(n uint16) func() bool {
		c.mu.Lock()
		goal := c.seq + n
		c.mu.Unlock()
		return func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.seq >= goal }
	}
	await("requests before", progressed(20))
	set("1")
	await("requests during", progressed(50))
	set("0")
	await("requests after", progressed(20))
	cancel()
	got := <-done
	if got.Lost() < 40 || got.Received < 30 || got.Gap < 40*time.Millisecond || !errors.Is(got.Err, ErrNoReply) {
		t.Errorf("an outage of 50 ms among 90 ms: %+v, lost %d", got, got.Lost())
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	ns, dst := namespace(t), netip.MustParseAddr("127.0.0.1")
	if err := ns.Sysctl("ipv4/icmp_echo_ignore_all", "1"); err != nil {
		t.Fatal(err)
	}
	c := listen(t, ns, dst)
	done := make(chan error)
	go func() {
		_, err := c.Echo(context.Background(), dst, 0)
		done <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a reply came that nobody sent")
		}
	case <-time.After(enough):
		t.Fatal("Echo still waits")
	}
}

func TestStats(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	ms := time.Millisecond
	tests := []struct {
		name     string
		outcomes []outcome
		want     Stats
	}{
		{"nothing", nil, Stats{}},
		{"all well", []outcome{{at(0), 2 * ms, nil}, {at(10), 4 * ms, nil}},
			Stats{Sent: 2, Received: 2, Min: 2 * ms, Avg: 3 * ms, Max: 4 * ms, Gap: 10 * ms}},
		{"out of order, a gap inside", []outcome{{at(30), 1 * ms, nil}, {at(0), 1 * ms, nil}, {at(20), 0, ErrNoReply}, {at(10), 0, ErrNoReply}},
			Stats{Sent: 4, Received: 2, Min: ms, Avg: ms, Max: ms, Gap: 30 * ms, Err: ErrNoReply}},
		{"a gap at the end", []outcome{{at(0), 1 * ms, nil}, {at(10), 0, ErrNoReply}, {at(20), 0, ErrNoReply}},
			Stats{Sent: 3, Received: 1, Min: ms, Avg: ms, Max: ms, Gap: 20 * ms, Err: ErrNoReply}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tally := tally{outcomes: tt.outcomes}
			if diff := cmp.Diff(tt.want, tally.stats(), cmpopts.EquateErrors()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// unreachable builds an ICMP error that quotes an echo request to dst with identifier 7 and sequence number 9.
func unreachable(t *testing.T, dst netip.Addr, code int) []byte {
	t.Helper()
	echo := []byte{8, 0, 0, 0, 0, 7, 0, 9}
	var quoted []byte
	message := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: code}
	if dst.Is4() {
		quoted = append(make([]byte, 16), dst.AsSlice()...)
		quoted[0] = 0x45
	} else {
		message.Type = ipv6.ICMPTypeDestinationUnreachable
		quoted = append(make([]byte, 24), dst.AsSlice()...)
		quoted[0] = 0x60
	}
	message.Body = &icmp.DstUnreach{Data: append(quoted, echo...)}
	packet, err := message.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

func TestErrorsFindTheirRequest(t *testing.T) {
	here, elsewhere := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	here6 := netip.MustParseAddr("2001:db8::1")
	tests := []struct {
		name   string
		dst    netip.Addr
		packet []byte
		want   string // "" when the error is about something else
	}{
		{"IPv4", here, unreachable(t, here, 1), "host unreachable"},
		{"IPv4, unknown code", here, unreachable(t, here, 11), "code 11"},
		{"IPv6", here6, unreachable(t, here6, 0), "no route"},
		{"other target", here, unreachable(t, elsewhere, 1), ""},
		{"cut short", here, unreachable(t, here, 1)[:20], ""},
		{"nothing", here, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &request{dst: tt.dst, answer: make(chan answer, 1)}
			c := &Conn{v6: tt.dst.Is6(), id: 7, waiting: map[uint16]*request{9: r}}
			c.handle(time.Now(), netip.MustParseAddr("192.0.2.254"), tt.packet)
			select {
			case a := <-r.answer:
				if tt.want == "" || a.err == nil || !strings.Contains(a.err.Error(), tt.want) {
					t.Errorf("got %v, want %q", a.err, tt.want)
				}
			default:
				if tt.want != "" {
					t.Errorf("no answer, want %q", tt.want)
				}
			}
		})
	}
}

func FuzzHandle(f *testing.F) {
	f.Add([]byte{3, 1, 0, 0, 0, 0, 0, 0, 0x45}, false)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0x60}, true)
	f.Fuzz(func(t *testing.T, packet []byte, v6 bool) {
		c := &Conn{v6: v6, id: 7, waiting: map[uint16]*request{}}
		c.handle(time.Now(), netip.Addr{}, packet)
	})
}
