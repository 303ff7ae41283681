package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

func TestSweep(t *testing.T) {
	tests := []struct {
		name  string
		flows Flows
		stale string // endpoint
		gone  []string
		want  int
	}{
		{"one endpoint", Flows{Protocol: unix.IPPROTO_UDP}, "10.5.1.7:5353", []string{"udp 198.51.100.1 53", "udp 10.5.1.7 5353"}, 2},
		{"of one destination", Flows{Protocol: unix.IPPROTO_UDP, Dst: netip.MustParseAddrPort("198.51.100.1:53")}, "10.5.1.7:5353", []string{"udp 198.51.100.1 53"}, 1},
		{"not translated", Flows{Protocol: unix.IPPROTO_UDP}, "198.51.100.2:53", []string{"udp 198.51.100.2 53"}, 1},
		{"another protocol", Flows{Protocol: unix.IPPROTO_TCP}, "10.5.1.7:5353", nil, 0},
		{"IPv6", Flows{Protocol: unix.IPPROTO_UDP, IPv6: true}, "[2001:db8::1]:53", []string{"udp 2001:db8::1 53"}, 1},
		{"of one IPv6 destination", Flows{Protocol: unix.IPPROTO_UDP, IPv6: true, Dst: netip.MustParseAddrPort("[2001:db8::2]:53")}, "[2001:db8::1]:53", nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t)
			want := fill(t)
			for _, e := range tt.gone {
				i := slices.Index(want, e)
				want = slices.Delete(want, i, i+1)
			}
			n, err := Sweep(t.Context(), tt.flows, func(_, endpoint netip.AddrPort) bool { return endpoint.String() == tt.stale })
			if n != tt.want || err != nil {
				t.Errorf("removed %d, %v; want %d", n, err, tt.want)
			}
			have := entries(t)
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
			if out := run(t, "conntrack", "-L", "-p", "udp", "-f", "ipv4"); tt.name == "one endpoint" && strings.Contains(out, "src=10.5.1.7 ") {
				t.Errorf("the wrong entry is left:\n%s", out)
			}
		})
	}
}

// load makes n UDP entries for one service, half of them answered by an endpoint that is gone.
func load(t testing.TB, n int) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "-I -p udp -s 192.0.2.100 -d 10.96.0.10 --sport %d --dport 53 -t 60 --dst-nat 10.5.1.%d -r 10.5.1.%[2]d -q 192.0.2.100 --reply-port-src 5353 --reply-port-dst %[1]d\n", 1000+i, 7+i%2)
	}
	name := t.TempDir() + "/entries"
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if tt, ok := t.(*testing.T); ok {
		run(tt, "conntrack", "--load-file", name)
	}
}

// TestSweepOfMany has more stale entries than are removed at a time, so that entries go while the kernel walks its table.
func TestSweepOfMany(t *testing.T) {
	inNamespace(t)
	load(t, 5000)
	gone := netip.MustParseAddrPort("10.5.1.7:5353")
	n, err := Sweep(t.Context(), Flows{Protocol: unix.IPPROTO_UDP}, func(_, e netip.AddrPort) bool { return e == gone })
	if n != 2500 || err != nil {
		t.Fatalf("removed %d, %v", n, err)
	}
	left := map[netip.AddrPort]int{}
	ids := map[uint32]bool{}
	err = Each(t.Context(), Flows{Protocol: unix.IPPROTO_UDP, Dst: netip.MustParseAddrPort("10.96.0.10:53")}, func() { clear(left) }, func(f Flow) {
		left[f.Endpoint]++
		ids[f.ID] = true
		if !f.Open() {
			t.Errorf("%v is not open", f)
		}
	})
	if err != nil || len(left) != 1 || left[netip.MustParseAddrPort("10.5.1.8:5353")] != 2500 || len(ids) != 2500 {
		t.Errorf("have %v with %d ids, %v", left, len(ids), err)
	}
}

func TestTCPStates(t *testing.T) {
	inNamespace(t)
	insert(t, 0, "tcp", "10.96.0.10:80", "10.5.1.7:8080")
	run(t, "conntrack", "-I", "-p", "tcp", "-s", "192.0.2.1", "-d", "10.96.0.10", "--sport", "9", "--dport", "80", "-t", "60", "--state", "TIME_WAIT")
	var open, closed int
	err := Each(t.Context(), Flows{Protocol: unix.IPPROTO_TCP, Dst: netip.MustParseAddrPort("10.96.0.10:80")}, func() {}, func(f Flow) {
		if f.Open() {
			open++
		} else {
			closed++
		}
	})
	if err != nil || open != 1 || closed != 1 {
		t.Errorf("%d open, %d closed, %v", open, closed, err)
	}
}

func TestSweepCancelled(t *testing.T) {
	inNamespace(t)
	fill(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all := func(_, _ netip.AddrPort) bool { return true }
	if n, err := Sweep(ctx, Flows{Protocol: unix.IPPROTO_UDP}, all); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("removed %d, %v", n, err)
	}
}

func FuzzFlow(f *testing.F) {
	for _, m := range []nfnl.Message{
		request(msgGet, Match{Protocol: 6, Dst: netip.MustParseAddrPort("10.96.0.1:80"), Endpoint: netip.MustParseAddrPort("10.5.1.7:8080")}),
		request(msgGet, Match{Protocol: 17, Dst: netip.MustParseAddrPort("[2001:db8::1]:80")}),
	} {
		m.Attrs.Nest(ctaProtoInfo, func(a *nfnl.Attrs) {
			a.Nest(ctaProtoInfoTCP, func(a *nfnl.Attrs) { a.Bytes(ctaProtoInfoTCPState, []byte{tcpEstablished}) })
		})
		m.Attrs.Uint32(ctaMark, 7)
		f.Add([]byte(m.Attrs))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := nfnl.Message{Attrs: b}
		flow, err := flowOf(m)
		_, dst, endpoint, errDeletion := deletion(m)
		if err == nil && errDeletion == nil && (flow.Dst.Addr() != dst || flow.Endpoint.Addr() != endpoint) {
			t.Errorf("%v is removed as %v, %v", flow, dst, endpoint)
		}
		if _, errMark := marking(m, 1, 1); (errMark == nil) != (errDeletion == nil) && err == nil {
			t.Errorf("%v is marked %v and removed %v", flow, errMark, errDeletion)
		}
	})
}
