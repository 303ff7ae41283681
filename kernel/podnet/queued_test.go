//go:build linux

package podnet

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// With a neighbour goes what waits for it. That pods do not get such packets is tested in plugins/twill.
func TestDropQueued(t *testing.T) {
	inNetns(t, func(h *Handle, _, _ string) {
		br, err := h.EnsureBridge(bridge())
		check(t, err)
		for _, ip := range []string{"10.5.1.77", "10.5.1.78", "fd00::77", "fd00::78"} {
			check(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: br.Index, IP: net.ParseIP(ip), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}))
		}
		left := func() (ips []string) {
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				all, err := netlink.NeighList(br.Index, family)
				check(t, err)
				for _, n := range all {
					if n.State == netlink.NUD_PERMANENT {
						ips = append(ips, n.IP.String())
					}
				}
			}
			slices.Sort(ips)
			return ips
		}
		for range 2 { // the second time, there are none
			check(t, h.DropQueued(br.Index, []netip.Prefix{netip.MustParsePrefix("10.5.1.77/24"), netip.MustParsePrefix("fd00::77/64")}))
			if diff := cmp.Diff([]string{"10.5.1.78", "fd00::78"}, left()); diff != "" {
				t.Error(diff)
			}
		}
	})
}
