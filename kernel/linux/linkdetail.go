//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureAddresses makes the link hold exactly these global addresses. Missing ones are added before others are removed. The kernel
// may take more than it was asked for when it removes an IPv4 address (its secondary ones, without
// net.ipv4.conf.*.promote_secondaries), so there is a second look.
func (h *Handle) ensureAddresses(ctx context.Context, dev netlink.Link, want []netip.Prefix) error {
	removed, err := h.adjustAddresses(ctx, dev, want)
	if err == nil && removed {
		_, err = h.adjustAddresses(ctx, dev, want)
	}
	return err
}

func (h *Handle) adjustAddresses(ctx context.Context, dev netlink.Link, want []netip.Prefix) (removed bool, err error) {
	have, err := globalAddresses(ctx, h.conn, int32(dev.Attrs().Index))
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		if err := h.links.AddrAdd(dev, netlinkAddr(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("add address %s: %w", p, err)
		}
	}
	for _, p := range have {
		if slices.Contains(want, p) {
			continue
		}
		if err := h.links.AddrDel(dev, netlinkAddr(p)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, fmt.Errorf("remove address %s: %w", p, err)
		}
		removed = true
	}
	return removed, nil
}

func netlinkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // usable at once: nobody else on this link can have it
	}
	return a
}

// portsFor returns the links that belong on the bridge with the index by their alias, and are on it or on no bridge.
func portsFor(aliasPrefix string, bridge int32, all []linkMessage) []linkMessage {
	var ports []linkMessage
	for _, l := range all {
		if aliasPrefix != "" && strings.HasPrefix(l.alias, aliasPrefix) && (l.master == 0 || l.master == bridge) {
			ports = append(ports, l)
		}
	}
	return ports
}

// ensurePorts puts the bridge's ports back on it, sets their hairpin mode, and returns how many there are. A port that is removed meanwhile is no
// error.
func (h *Handle) ensurePorts(ctx context.Context, want kernel.Bridge, dev netlink.Link) (int, error) {
	all, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return 0, fmt.Errorf("list ports: %w", err)
	}
	bridge := dev.Attrs().Index
	ports := portsFor(want.PortAliasPrefix, int32(bridge), all)
	var errs []error
	for _, l := range ports {
		port := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: l.name, Index: int(l.index)}}
		if l.master == 0 {
			if err := h.links.LinkSetMasterByIndex(port, bridge); err != nil && !isMissing(err) {
				errs = append(errs, fmt.Errorf("add port %s: %w", l.name, err))
				continue
			}
			h.log.Info("port put back on its bridge", "link", l.name, "bridge", dev.Attrs().Name)
		}
		if l.hairpin != want.Hairpin || l.master == 0 {
			if err := h.links.LinkSetHairpin(port, want.Hairpin); err != nil && !isMissing(err) {
				errs = append(errs, fmt.Errorf("set hairpin mode of port %s: %w", l.name, err))
			}
		}
	}
	for _, l := range ports {
		errs = append(errs, h.settle(int(l.index)))
	}
	return len(ports), errors.Join(append(errs, h.settle(bridge))...)
}

// settle makes the kernel run its deferred link watch for a link now, by asking for the link (since 6.9: linkwatch_sync_dev in
// rtnl_getlink). A port begins to forward by that, and a bridge with its first such port to send; until then, up to a second on a busy
// machine, what goes to the pods is dropped, questions for their MACs among it. A link that is gone is no error.
func (h *Handle) settle(index int) error {
	if _, err := h.links.LinkByIndex(index); err != nil && !isMissing(err) {
		return fmt.Errorf("ask for link %d: %w", index, err)
	}
	return nil
}
