//go:build linux

package linux

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/podnet"
)

// linkLocalPatience is how long the IPv6 addresses of a bridge wait for its own link-local one, which is there within a millisecond on an idle
// node. With another net.ipv6.conf.*.addr_gen_mode than EUI-64 it is another address, and all of it passes.
const linkLocalPatience = 100 * time.Millisecond

// linkLocalWatch waits until a bridge that is set up can ask for the MACs of pods by IPv6. Questions are asked with the link's own
// link-local address. The kernel makes it when the link comes up, and finishes it in a work queue; before that it asks nothing
// (ndisc_send_ns), or does not take the answer for its own, and asks again a second later. So the addresses with which the routes to
// the pods come have to wait: a packet from another node that is faster would cost the pods that second.
type linkLocalWatch struct {
	watch *podnet.LocalWatch // nil: nothing to wait for
	own   netip.Prefix
}

// watchLinkLocal opens a watch for a bridge that is down, has to come up, and gets IPv6 addresses.
func (h *Handle) watchLinkLocal(want kernel.Link, dev netlink.Link) (linkLocalWatch, error) {
	attrs := dev.Attrs()
	if want.Bridge == nil || !want.Up || attrs.RawFlags&unix.IFF_UP != 0 ||
		!slices.ContainsFunc(want.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return linkLocalWatch{}, nil
	}
	mac := want.MAC
	if mac.IsZero() && len(attrs.HardwareAddr) == len(mac) {
		mac = kernel.MAC(attrs.HardwareAddr)
	}
	w := linkLocalWatch{own: netip.PrefixFrom(linkLocal(mac), 64)}
	err := h.inNamespace(func() (err error) {
		w.watch, err = podnet.WatchLocals()
		return err
	})
	return w, err
}

// linkLocal returns the link-local address of a MAC (RFC 4291, appendix A).
func linkLocal(mac kernel.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 0x02, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

func (w linkLocalWatch) await(patience time.Duration) error {
	if w.watch == nil {
		return nil
	}
	if err := w.watch.Await([]netip.Prefix{w.own}, patience); err != nil {
		return fmt.Errorf("wait for address %s: %w", w.own, err)
	}
	return nil
}

func (w linkLocalWatch) close() {
	if w.watch != nil {
		w.watch.Close()
	}
}
