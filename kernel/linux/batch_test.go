//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// peers are n peers of one family as the overlay would have them.
type peers struct {
	fdb       []kernel.FDBEntry
	neighbors []kernel.Neighbor
	routes    []kernel.Route
}

func makePeers(n int, ipv6 bool) peers {
	var p peers
	for i := range n {
		var b [16]byte
		binary.BigEndian.PutUint32(b[4:], uint32(i))
		mac := kernel.MAC{2, 1, b[4], b[5], b[6], b[7]}
		link, bits, base, node := "flannel.1", 24, netip.AddrFrom4([4]byte{11, b[6], b[7], 0}), netip.AddrFrom4([4]byte{172, 16 + b[5], b[6], b[7]})
		if ipv6 {
			b[0], b[1] = 0xfd, 0x00
			link, bits, base = "flannel-v6.1", 64, netip.AddrFrom16(b)
			b[0], b[15] = 0x20, 1
			node = netip.AddrFrom16(b)
		}
		p.fdb = append(p.fdb, kernel.FDBEntry{Link: link, MAC: mac, Dst: node})
		p.neighbors = append(p.neighbors, kernel.Neighbor{Link: link, IP: base, MAC: mac})
		p.routes = append(p.routes, kernel.Route{Dst: netip.PrefixFrom(base, bits),
			NextHops: []kernel.NextHop{{Gateway: base, Link: link, OnLink: true}}})
	}
	return p
}

func (p *peers) shuffle(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(p.fdb), func(i, j int) { p.fdb[i], p.fdb[j] = p.fdb[j], p.fdb[i] })
	r.Shuffle(len(p.neighbors), func(i, j int) { p.neighbors[i], p.neighbors[j] = p.neighbors[j], p.neighbors[i] })
	r.Shuffle(len(p.routes), func(i, j int) { p.routes[i], p.routes[j] = p.routes[j], p.routes[i] })
}

func (p *peers) apply(t testing.TB, h *Handle) {
	t.Helper()
	wantNoErrors(t, h.ApplyFDB(t.Context(), set(p.fdb...)))
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(p.neighbors...)))
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(p.routes...)))
}

func (p *peers) remove(t testing.TB, h *Handle) {
	t.Helper()
	wantNoErrors(t, h.ApplyRoutes(t.Context(), remove(p.routes...)))
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), remove(p.neighbors...)))
	wantNoErrors(t, h.ApplyFDB(t.Context(), remove(p.fdb...)))
}

func (p *peers) want(t *testing.T, h *Handle, link string) {
	t.Helper()
	wantFDB(t, h, []string{link}, p.fdb...)
	wantNeighbors(t, h, []string{link}, p.neighbors...)
	wantRoutes(t, h, []string{link}, p.routes...)
}

// TestBulk writes 20,000 peers twice in different orders, reads them back and removes them.
func TestBulk(t *testing.T) {
	for _, tc := range []struct {
		name, link string
		ipv6       bool
	}{{"IPv4", "flannel.1", false}, {"IPv6", "flannel-v6.1", true}} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+overlays)
			all := makePeers(20000, tc.ipv6)
			for seed := range uint64(2) {
				all.shuffle(seed)
				all.apply(t, h)
			}
			all.want(t, h, tc.link)
			all.remove(t, h)
			all.remove(t, h)
			(&peers{}).want(t, h, tc.link)
		})
	}
}

// TestErrorsNameTheirChange has one bad change among 1,000, one in every place of a send, and nothing but bad ones.
func TestErrorsNameTheirChange(t *testing.T) {
	good := func(i int) kernel.Route {
		base := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
		return kernel.Route{Dst: netip.PrefixFrom(base, 24), NextHops: []kernel.NextHop{{Gateway: base, Link: "flannel.1", OnLink: true}}}
	}
	bad := func(i int) kernel.Route { // the gateway is one of the node's own addresses
		r := good(i)
		r.NextHops = []kernel.NextHop{onLink("192.0.2.1", "flannel.1")}
		return r
	}
	unsent := func(i int) kernel.Route {
		r := good(i)
		r.NextHops = []kernel.NextHop{onLink("10.5.0.0", "absent")}
		return r
	}
	const n = 1000
	for _, tc := range []struct {
		name  string
		isBad func(i int) bool
		bad   func(i int) kernel.Route
		errno unix.Errno
		text  string
	}{
		{"the first", func(i int) bool { return i == 0 }, bad, unix.EINVAL, "invalid gateway"},
		{"one in the middle", func(i int) bool { return i == 567 }, bad, unix.EINVAL, "invalid gateway"},
		{"the last", func(i int) bool { return i == n-1 }, bad, unix.EINVAL, "invalid gateway"},
		{"every seventh", func(i int) bool { return i%7 == 0 }, bad, unix.EINVAL, "invalid gateway"},
		{"all", func(int) bool { return true }, bad, unix.EINVAL, "invalid gateway"},
		{"some that cannot be sent", func(i int) bool { return i%5 == 4 }, unsent, unix.ENODEV, "absent"},
		{"all that cannot be sent", func(int) bool { return true }, unsent, unix.ENODEV, "absent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+overlays)
			var routes, want []kernel.Route
			for i := range n {
				if tc.isBad(i) {
					routes = append(routes, tc.bad(i))
					continue
				}
				routes = append(routes, good(i))
				want = append(want, good(i))
			}
			errs := h.ApplyRoutes(t.Context(), set(routes...))
			if len(errs) != n {
				t.Fatalf("have %d errors, want %d", len(errs), n)
			}
			for i, err := range errs {
				if (err != nil) != tc.isBad(i) {
					t.Fatalf("change %d: have %v", i, err)
				}
				if err != nil && (!errors.Is(err, tc.errno) || !strings.Contains(err.Error(), tc.text) ||
					!strings.HasPrefix(err.Error(), "set "+routes[i].String()+": ")) {
					t.Fatalf("change %d: have %v, want %v with %q", i, err, tc.errno, tc.text)
				}
			}
			wantRoutes(t, h, nil, want...)
			wantNoErrors(t, h.ApplyRoutes(t.Context(), set(want...))) // the socket is in step
		})
	}
}

// TestErrorsFitSmallBuffer has nothing but errors and a receive buffer of the default size, as without CAP_NET_ADMIN.
func TestErrorsFitSmallBuffer(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	if err := unix.SetsockoptInt(h.conn.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10); err != nil {
		t.Fatal(err)
	}
	size, err := unix.GetsockoptInt(h.conn.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	h.conn.replies = repliesIn(size)
	bad := makePeers(3000, false)
	for i := range bad.routes {
		bad.routes[i].NextHops[0].Gateway = netip.MustParseAddr("192.0.2.1")
	}
	errs := h.ApplyRoutes(t.Context(), set(bad.routes...))
	if len(errs) != len(bad.routes) {
		t.Fatalf("have %d errors, want %d", len(errs), len(bad.routes))
	}
	for i, err := range errs {
		if !errors.Is(err, unix.EINVAL) {
			t.Fatalf("change %d: have %v, want the kernel's error", i, err)
		}
	}
}

func TestEndedContext(t *testing.T) {
	h := open(t)
	setUp(t, underlay+overlays)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := makePeers(3, false)
	errs := h.ApplyNeighbors(ctx, set(p.neighbors...))
	if len(errs) != 3 || !errors.Is(errors.Join(errs...), context.Canceled) {
		t.Errorf("have %v, want three times %v", errs, context.Canceled)
	}
	if _, err := h.Neighbors(ctx, []string{"flannel.1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want %v", err, context.Canceled)
	}
	wantNeighbors(t, h, []string{"flannel.1"})
	if diff := cmp.Diff([]error(nil), h.ApplyNeighbors(ctx, nil)); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkPeers20000 programs 20,000 peers into a fresh namespace and reports allocations per peer.
func BenchmarkPeers20000(b *testing.B) {
	for _, tc := range []struct {
		name string
		ipv6 bool
	}{{"IPv4", false}, {"IPv6", true}} {
		b.Run(tc.name, func(b *testing.B) {
			h := open(b)
			setUp(b, underlay+overlays)
			all := makePeers(20000, tc.ipv6)
			f, n, r := set(all.fdb...), set(all.neighbors...), set(all.routes...)
			b.ReportAllocs()
			for b.Loop() {
				wantNoErrors(b, h.ApplyFDB(b.Context(), f))
				wantNoErrors(b, h.ApplyNeighbors(b.Context(), n))
				wantNoErrors(b, h.ApplyRoutes(b.Context(), r))
				b.StopTimer()
				all.remove(b, h)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkDump20000 reads 20,000 peers back.
func BenchmarkDump20000(b *testing.B) {
	h := open(b)
	setUp(b, underlay+overlays)
	all := makePeers(20000, false)
	all.apply(b, h)
	links := []string{"flannel.1"}
	b.ReportAllocs()
	for b.Loop() {
		f, err1 := h.FDB(b.Context(), links)
		n, err2 := h.Neighbors(b.Context(), links)
		r, err3 := h.Routes(b.Context(), links)
		if err := errors.Join(err1, err2, err3); err != nil || len(f)+len(n)+len(r) != 60000 {
			b.Fatal(len(f), len(n), len(r), err)
		}
	}
}
