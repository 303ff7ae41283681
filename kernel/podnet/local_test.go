//go:build linux

package podnet

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// giveLo adds addresses to lo and sets it up.
func giveLo(t *testing.T, addresses ...string) (prefixes []netip.Prefix) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	for _, address := range addresses {
		a, err := netlink.ParseAddr(address)
		check(t, err)
		a.Flags = unix.IFA_F_NODAD
		check(t, netlink.AddrAdd(lo, a))
		prefixes = append(prefixes, netip.MustParsePrefix(address))
	}
	return prefixes
}

// addrs returns the addresses without their lengths.
func addrs(prefixes []netip.Prefix) (out []netip.Addr) {
	for _, p := range prefixes {
		out = append(out, p.Addr())
	}
	return out
}

// When await returns, the kernel takes packets to the addresses, in whichever order it got to them.
func TestAwaitLocals(t *testing.T) {
	for _, given := range [][]string{{"fd00::1/64"}, {"fd00::1/64", "fd00:1::1/128"}, {"fd00:1::1/128", "fd00::1/64"}} {
		t.Run(fmt.Sprint(given), func(t *testing.T) {
			inNetns(t, func(h *Handle, _, _ string) {
				w, err := WatchLocals()
				check(t, err)
				defer w.Close()
				want := giveLo(t, given...)
				start := time.Now()
				check(t, w.await(h.host, append(want, netip.MustParsePrefix("10.0.0.1/24")), 10*time.Second))
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("the notification was not seen: await took %s", took)
				}
				missing, err := h.host.notLocal(addrs(want))
				check(t, err)
				if len(missing) > 0 {
					t.Errorf("%v cannot receive", missing)
				}
			})
		})
	}
}

// A notification that is lost is made up for by asking.
func TestAwaitLocalsAfterLoss(t *testing.T) {
	inNetns(t, func(h *Handle, _, _ string) {
		w, err := WatchLocals()
		check(t, err)
		defer w.Close()
		check(t, unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		check(t, netlink.LinkSetUp(lo))
		for i := range 64 {
			dst := &net.IPNet{IP: net.ParseIP(fmt.Sprintf("fd00:%d::", i+1)), Mask: net.CIDRMask(64, 128)}
			check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst}))
		}
		last := giveLo(t, "fd00::1/64")
		for end := time.Now().Add(5 * time.Second); ; {
			missing, err := h.host.notLocal(addrs(last))
			check(t, err)
			if len(missing) == 0 {
				break
			}
			if time.Now().After(end) {
				t.Error("the address does not come into use")
				return
			}
		}
		start := time.Now()
		check(t, w.await(h.host, last, 10*time.Second))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("await took %s", took)
		}
	})
}

// An address that never comes into use holds an ADD up for a bounded time, and is no error.
func TestAwaitLocalsGivesUp(t *testing.T) {
	inNetns(t, func(h *Handle, _, _ string) {
		w, err := WatchLocals()
		check(t, err)
		defer w.Close()
		const patience = 20 * time.Millisecond
		start := time.Now()
		check(t, w.await(h.host, []netip.Prefix{netip.MustParsePrefix("fd00::1/64")}, patience))
		if took := time.Since(start); took < patience || took > 5*time.Second {
			t.Errorf("await took %s, want %s", took, patience)
		}
	})
}

// Whatever comes, an address is taken for one in use only when a message names it.
func FuzzWithoutLocals(f *testing.F) {
	var b batch
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1], body[7] = unix.AF_INET6, 128, unix.RTN_LOCAL
	addr := netip.MustParseAddr("fd00::1")
	b.add("", unix.RTM_NEWROUTE, 0, body)
	b.addr(unix.RTA_DST, addr)
	b.end()
	f.Add(b.buf)
	f.Add(append(b.buf[:len(b.buf):len(b.buf)], b.buf...))
	f.Add(b.buf[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		left := withoutLocals([]netip.Addr{addr}, data)
		if len(left) == 0 && !bytes.Contains(data, addr.AsSlice()) {
			t.Errorf("%x does not hold the address", data)
		}
	})
}
