//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultVXLANPort is the port of a device that was made without one. IANA's is 4789; the kernel keeps the number of its first
// days (drivers/net/vxlan, vxlan_port).
const defaultVXLANPort = 8472

// linkMessage is RTM_NEWLINK or RTM_DELLINK (struct ifinfomsg), as far as one has to know of a link that may not be ours.
type linkMessage struct {
	family uint8
	index  int32
	flags  uint32
	name   string
	alias  string
	kind   string // IFLA_INFO_KIND
	mtu    uint32
	master int32
	// hairpin is IFLA_BRPORT_MODE of a bridge port.
	hairpin bool
}

func (l *linkMessage) up() bool { return l.flags&unix.IFF_UP != 0 }

func parseLinkMessage(payload []byte) (l linkMessage, err error) {
	if len(payload) < unix.SizeofIfInfomsg {
		return l, errMalformed
	}
	l.family = payload[0]
	l.index = int32(binary.NativeEndian.Uint32(payload[4:]))
	l.flags = binary.NativeEndian.Uint32(payload[8:])
	for attrs := payload[unix.SizeofIfInfomsg:]; len(attrs) > 0; {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return l, err
		}
		switch a.attrType {
		case unix.IFLA_IFNAME:
			l.name = a.text()
		case unix.IFLA_MTU:
			l.mtu, _ = a.u32()
		case unix.IFLA_IFALIAS:
			l.alias = a.text()
		case unix.IFLA_MASTER:
			master, _ := a.u32()
			l.master = int32(master)
		case unix.IFLA_PROTINFO: // of a port, in family AF_BRIDGE
			l.hairpin = hairpin(a.value)
		case unix.IFLA_LINKINFO:
			if kind, ok := find(a.value, unix.IFLA_INFO_KIND); ok {
				l.kind = kind.text()
			}
			if port, ok := find(a.value, unix.IFLA_INFO_SLAVE_DATA); ok {
				l.hairpin = hairpin(port.value)
			}
		}
		attrs = rest
	}
	return l, nil
}

// hairpin reads the mode of a bridge port from its attributes.
func hairpin(port []byte) bool {
	mode, ok := find(port, unix.IFLA_BRPORT_MODE)
	return ok && len(mode.value) > 0 && mode.value[0] != 0
}

// find returns the first attribute of the type.
func find(attrs []byte, attrType uint16) (attribute, bool) {
	for len(attrs) > 0 {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			break
		}
		if a.attrType == attrType {
			return a, true
		}
		attrs = rest
	}
	return attribute{}, false
}

// dumpLinks lists all links of the namespace, without their statistics, which are most of a link's message.
func dumpLinks(ctx context.Context, c *conn) ([]linkMessage, error) {
	const skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	return dump(ctx, c, nil, func(e *encoder, seq uint32) {
		e.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP, seq)
		e.ifinfomsg()
		e.attrU32(unix.IFLA_EXT_MASK, skipStatistics)
		e.end()
	}, func(m message) (linkMessage, bool, error) {
		l, err := parseLinkMessage(m.payload)
		return l, true, err
	})
}

func (e *encoder) ifinfomsg() {
	for range unix.SizeofIfInfomsg / 4 {
		e.u32(0)
	}
}

// Links returns the links that are named or bear kernel.LinkAlias. Of Link.Sysctls it reports the entries that ApplyLinks was
// asked for. Bridge.PortAliasPrefix and Hairpin are as ApplyLinks was asked for while all ports are as they say.
func (h *Handle) Links(ctx context.Context, names []string) ([]kernel.Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var links []kernel.Link
	for i := range all {
		if all[i].alias != kernel.LinkAlias && !slices.Contains(names, all[i].name) {
			continue
		}
		link, ok, err := h.readLink(ctx, all[i].name, all)
		if err != nil {
			return nil, err
		}
		if ok {
			links = append(links, link)
		}
	}
	return links, nil
}

// ReadLink returns what the kernel has of the link, such as the MAC of a device that flanneld left, and whether there is one
// of that name.
func (h *Handle) ReadLink(ctx context.Context, name string) (kernel.Link, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.readLink(ctx, name, nil)
}

// readLink reads one link. all serves to look after a bridge's ports; nil leaves them out.
func (h *Handle) readLink(ctx context.Context, name string, all []linkMessage) (kernel.Link, bool, error) {
	dev, err := h.findLink(name)
	if err != nil || dev == nil {
		return kernel.Link{}, false, err
	}
	attrs := dev.Attrs()
	link := kernel.Link{Name: name, MTU: attrs.MTU, Up: attrs.RawFlags&unix.IFF_UP != 0, Unmarked: attrs.Alias != kernel.LinkAlias}
	if len(attrs.HardwareAddr) == len(link.MAC) {
		link.MAC = kernel.MAC(attrs.HardwareAddr)
	}
	asked := h.asked[name]
	switch dev := dev.(type) {
	case *netlink.Vxlan:
		link.VXLAN = h.vxlan(dev)
		if on, err := txChecksum(h.conn.fd, name); err == nil {
			link.TxChecksumOffload = &on
		}
	case *netlink.Bridge:
		link.Bridge = bridgeState(asked.Bridge, int32(attrs.Index), all)
	}
	if link.Addresses, err = globalAddresses(ctx, h.conn, int32(attrs.Index)); err != nil {
		return kernel.Link{}, false, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	link.Sysctls, err = h.readSysctls(name, asked.Sysctls)
	return link, err == nil, err
}

// findLink returns nil when there is no link of that name.
func (h *Handle) findLink(name string) (netlink.Link, error) {
	dev, err := h.links.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read link %s: %w", name, err)
	case dev.Attrs().Name != name:
		return nil, fmt.Errorf("%q is an alternative name of link %s", name, dev.Attrs().Name)
	}
	return dev, nil
}

func (h *Handle) vxlan(dev *netlink.Vxlan) *kernel.VXLAN {
	v := &kernel.VXLAN{VNI: uint32(dev.VxlanId), Port: uint16(dev.Port), GBP: dev.GBP, Learning: dev.Learning}
	if local, ok := netip.AddrFromSlice(dev.SrcAddr); ok {
		v.Local = local.Unmap()
	}
	if dev.VtepDevIndex != 0 {
		v.Uplink = newNames(h.conn.fd).name(int32(dev.VtepDevIndex))
	}
	return v
}

// bridgeState says what ApplyLinks was asked for, less what does not hold of the bridge's ports any more.
func bridgeState(asked *kernel.Bridge, index int32, all []linkMessage) *kernel.Bridge {
	if asked == nil {
		return &kernel.Bridge{}
	}
	state := *asked
	for _, port := range portsFor(asked.PortAliasPrefix, index, all) {
		switch {
		case port.master == 0:
			state.PortAliasPrefix = ""
		case port.hairpin != asked.Hairpin:
			state.Hairpin = !asked.Hairpin
		}
	}
	return &state
}

// globalAddresses lists a link's addresses that are valid beyond it.
func globalAddresses(ctx context.Context, c *conn, index int32) ([]netip.Prefix, error) {
	all, err := dumpAddresses(ctx, c, index)
	var list []netip.Prefix
	for _, a := range all {
		if a.global() {
			list = append(list, a.prefix)
		}
	}
	return list, err
}
