//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ApplyLinks makes, adjusts or removes VXLAN and bridge devices, one after the other. A VXLAN device that differs in what
// cannot be changed is made again, and what was on it (addresses, neighbours, FDB entries, routes) goes. A device of the name that is of
// another kind is left alone and is an error.
func (h *Handle) ApplyLinks(ctx context.Context, changes []kernel.Change[kernel.Link]) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := make([]error, len(changes))
	for i, change := range changes {
		err := ctx.Err()
		switch {
		case err != nil:
		case change.Delete:
			err = h.deleteLink(change.Value)
		default:
			err = h.ensureLink(ctx, change.Value)
		}
		if err != nil {
			errs[i] = fmt.Errorf("link %s: %w", change.Value.Name, err)
		}
	}
	if errors.Join(errs...) == nil {
		return nil
	}
	return errs
}

func (h *Handle) deleteLink(link kernel.Link) error {
	delete(h.asked, link.Name)
	dev, err := h.findLink(link.Name)
	if err != nil || dev == nil {
		return err
	}
	if err := sameKind(link, dev); err != nil {
		return err
	}
	return h.removeDevice(dev)
}

func (h *Handle) removeDevice(dev netlink.Link) error {
	if err := h.links.LinkDel(dev); err != nil && !isMissing(err) {
		return fmt.Errorf("delete: %w", err)
	}
	h.log.Info("link deleted", "link", dev.Attrs().Name)
	return nil
}

// sameKind returns an error when the device is not of the kind that is asked for. A Link without a kind may be any.
func sameKind(link kernel.Link, dev netlink.Link) error {
	want := ""
	switch {
	case link.VXLAN != nil:
		want = "vxlan"
	case link.Bridge != nil:
		want = "bridge"
	default:
		return nil
	}
	if have := dev.Type(); have != want {
		return fmt.Errorf("a device of kind %q has this name; want kind %q: remove or rename it: %w: %w", have, want, kernel.ErrInTheWay, unix.EEXIST)
	}
	return nil
}

func (h *Handle) ensureLink(ctx context.Context, want kernel.Link) error {
	if want.VXLAN == nil && want.Bridge == nil {
		return fmt.Errorf("neither a VXLAN nor a bridge is asked for: %w", unix.EINVAL)
	}
	dev, err := h.findLink(want.Name)
	if err != nil {
		return err
	}
	if dev != nil {
		if err := sameKind(want, dev); err != nil {
			return err
		}
		if have, ok := dev.(*netlink.Vxlan); ok {
			if why := vxlanDifference(h.vxlan(have), want.VXLAN); why != "" {
				if err := h.canMake(want); err != nil {
					return fmt.Errorf("%s, and the device that is there stays: %w", why, err)
				}
				h.log.Info("link is made again", "link", want.Name, "because", why)
				if err := h.removeDevice(dev); err != nil {
					return err
				}
				dev = nil
			}
		}
	}
	if dev == nil {
		if dev, err = h.createLink(want); err != nil {
			return err
		}
	}
	if err := h.adjustLink(ctx, want, dev); err != nil {
		return err
	}
	want.Sysctls = maps.Clone(want.Sysctls)
	h.asked[want.Name] = want
	return nil
}

// canMake returns an error when something stands in the way of making the VXLAN device. It is asked before another device, which may
// be in use, is removed for it.
func (h *Handle) canMake(want kernel.Link) error {
	if want.VXLAN.Uplink != "" {
		if _, err := newNames(h.conn.fd).index(want.VXLAN.Uplink); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
	}
	if rival := h.rival(want); rival != nil {
		return fmt.Errorf("it cannot be made again: %w: %w", rival, unix.EEXIST)
	}
	return nil
}

// vxlanDifference says in words what of a VXLAN device cannot be changed and is not as it should be; "" when nothing.
func vxlanDifference(have, want *kernel.VXLAN) string {
	for _, field := range []struct {
		name       string
		have, want any
	}{
		{"VNI", have.VNI, want.VNI},
		{"port", vxlanPort(have), vxlanPort(want)},
		{"uplink", have.Uplink, want.Uplink},
		{"local address", have.Local, want.Local},
		{"GBP", have.GBP, want.GBP},
		{"learning", have.Learning, want.Learning},
	} {
		if field.have != field.want {
			return fmt.Sprintf("%s is %v, want %v", field.name, field.have, field.want)
		}
	}
	return ""
}

func vxlanPort(v *kernel.VXLAN) uint16 {
	if v.Port == 0 {
		return defaultVXLANPort
	}
	return v.Port
}

// createLink makes the device, down. Its MAC is part of the request that makes it: systemd-udevd, whose MACAddressPolicy
// would give a new device another one, leaves alone what user space has set (addr_assign_type NET_ADDR_SET).
func (h *Handle) createLink(want kernel.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Alias = want.Name, want.MTU, kernel.LinkAlias
	if !want.MAC.IsZero() {
		attrs.HardwareAddr = want.MAC[:]
	}
	var dev netlink.Link
	if want.VXLAN != nil {
		v := &netlink.Vxlan{
			LinkAttrs: attrs,
			VxlanId:   int(want.VXLAN.VNI),
			Port:      int(want.VXLAN.Port),
			Learning:  want.VXLAN.Learning,
			GBP:       want.VXLAN.GBP,
			SrcAddr:   want.VXLAN.Local.AsSlice(),
		}
		if want.VXLAN.Uplink != "" {
			index, err := newNames(h.conn.fd).index(want.VXLAN.Uplink)
			if err != nil {
				return nil, fmt.Errorf("create: uplink: %w", err)
			}
			v.VtepDevIndex = int(index)
		}
		dev = v
	} else {
		// A bridge's MTU follows that of its ports until it is changed by request (br_change_mtu). What it is made with does
		// not count, nor does a request that changes nothing: so it is made with another one.
		attrs.MTU = max(want.MTU-1, 0)
		dev = &netlink.Bridge{LinkAttrs: attrs}
	}
	if err := h.links.LinkAdd(dev); err != nil {
		if rival := h.rival(want); rival != nil {
			err = fmt.Errorf("%w: %w", rival, err)
		}
		return nil, fmt.Errorf("create: %w", err)
	}
	h.log.Info("link created", "link", want.Name)
	delete(h.asked, want.Name)
	made, err := h.findLink(want.Name)
	if err == nil && made == nil {
		err = fmt.Errorf("it was removed right after it was made: %w", unix.ENODEV)
	}
	return made, err
}

// rival returns an error that names the VXLAN device because of which the kernel will not make another one, and nil when there is none: two devices
// of a namespace and family cannot have one VNI and port (vxlan_config_validate).
func (h *Handle) rival(want kernel.Link) error {
	all, err := h.links.LinkList()
	if err != nil || want.VXLAN == nil {
		return nil
	}
	port := vxlanPort(want.VXLAN)
	for _, dev := range all {
		v, ok := dev.(*netlink.Vxlan)
		if ok && v.Name != want.Name && uint32(v.VxlanId) == want.VXLAN.VNI && uint16(v.Port) == port && h.vxlan(v).Local.Is6() == want.VXLAN.Local.Is6() {
			return fmt.Errorf("link %s has VNI %d and port %d; run `ip link delete %s` if nothing uses it, or give the network another VNI: %w",
				v.Name, v.VxlanId, port, v.Name, kernel.ErrInTheWay)
		}
	}
	return nil
}

// adjustLink changes in place what is not as it should be. Sysctls come before the link is up, so that it never takes part in
// what they forbid; addresses come after, since IPv6 loses them when a link goes down. A bridge has its ports before its addresses: with
// those come the routes, and a question for a pod's MAC that has no port to leave by is repeated only a second later.
func (h *Handle) adjustLink(ctx context.Context, want kernel.Link, dev netlink.Link) error {
	if dev.Attrs().Alias != kernel.LinkAlias { // a new link has none either: the kernel ignores it in the request that makes a link
		if err := h.links.LinkSetAlias(dev, kernel.LinkAlias); err != nil {
			return fmt.Errorf("set alias: %w", err)
		}
	}
	if err := h.writeSysctls(want.Name, want.Sysctls); err != nil {
		return err
	}
	ownAddress, err := h.watchLinkLocal(want, dev)
	if err != nil {
		return err
	}
	defer ownAddress.close()
	if err := h.adjustDevice(want, dev); err != nil {
		return err
	}
	if want.Bridge != nil && want.Bridge.PortAliasPrefix != "" {
		ports, err := h.ensurePorts(ctx, *want.Bridge, dev)
		if err != nil {
			return errors.Join(err, h.ensureAddresses(ctx, dev, want.Addresses))
		}
		if ports > 0 { // without one a bridge has no carrier, and no use for an address of its own
			if err := ownAddress.await(h.patience); err != nil {
				return err
			}
		}
	}
	if err := h.ensureAddresses(ctx, dev, want.Addresses); err != nil {
		return err
	}
	if want.TxChecksumOffload != nil {
		return setTxChecksum(h.conn.fd, want.Name, *want.TxChecksumOffload)
	}
	return nil
}

// adjustDevice sets MAC, MTU and state.
func (h *Handle) adjustDevice(want kernel.Link, dev netlink.Link) error {
	attrs := dev.Attrs()
	mac := want.MAC
	_, known := h.asked[want.Name]
	if want.Bridge != nil && mac.IsZero() && !known && len(attrs.HardwareAddr) == len(mac) {
		// A bridge takes the lowest MAC of its ports until one is set, be it the one that it has
		// (br_stp_recalculate_bridge_id).
		mac = kernel.MAC(attrs.HardwareAddr)
	}
	pin := want.Bridge != nil && !known
	if !mac.IsZero() && (pin || string(attrs.HardwareAddr) != string(mac[:])) {
		if err := h.links.LinkSetHardwareAddr(dev, mac[:]); err != nil {
			return fmt.Errorf("set MAC %s: %w", mac, err)
		}
	}
	if want.MTU != 0 && attrs.MTU != want.MTU {
		if err := h.links.LinkSetMTU(dev, want.MTU); err != nil {
			return fmt.Errorf("set MTU %d, which is %d: %w", want.MTU, attrs.MTU, err)
		}
	}
	if up := attrs.RawFlags&unix.IFF_UP != 0; up == want.Up {
		return nil
	}
	set := h.links.LinkSetDown
	if want.Up {
		set = h.links.LinkSetUp
	}
	if err := set(dev); err != nil {
		return fmt.Errorf("set up=%t: %w", want.Up, err)
	}
	return nil
}
