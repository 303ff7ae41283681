package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/kernel"
)

// UnderlayGateway returns the addresses of the underlay's namespace: etcd answers there. For a pod it is the world outside the
// cluster. In a lab of one subnet they are also every node's default gateway. An address of a family that the lab does not have is the
// zero Addr.
func (l *Lab) UnderlayGateway() (v4, v6 netip.Addr) {
	if l.options.Family.V4() {
		v4 = gatewayV4.Addr()
	}
	if l.options.Family.V6() {
		v6 = gatewayV6.Addr()
	}
	return v4, v6
}

// Underlay returns the namespace that holds the bridge and etcd.
func (l *Lab) Underlay() netns.Namespace { return netns.Named(underlayNamespace(l.options.Name)) }

func (l *Lab) makeUnderlay() error {
	if err := claim(l.Underlay(), l.dir.underlay(), touch); err != nil {
		return fmt.Errorf("make the underlay: %w", err)
	}
	h, err := handle(l.Underlay())
	if err != nil {
		return fmt.Errorf("make the underlay: %w", err)
	}
	defer h.Close()
	if err := linkUp(h, "lo"); err != nil {
		return fmt.Errorf("make the underlay: %w", err)
	}
	for _, s := range l.options.subnets() {
		if err := l.makeSubnet(h, s); err != nil {
			return fmt.Errorf("make the underlay's bridge %s: %w", s.bridge, err)
		}
	}
	if l.options.Subnets == 1 {
		return nil // the bridge has the address
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("make the underlay: find lo: %w", err)
	}
	v4, v6 := gatewayV4.Addr(), gatewayV6.Addr()
	return l.addrs(h, lo, netip.PrefixFrom(v4, v4.BitLen()), netip.PrefixFrom(v6, v6.BitLen()))
}

func (l *Lab) makeSubnet(h *netlink.Handle, s subnet) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = s.bridge, l.options.MTU
	attrs.HardwareAddr = mac(l.options.Name, "underlay", s.bridge)
	snooping := false // no querier, no snooping: neighbour discovery reaches every port
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := h.LinkAdd(br); err != nil {
		return err
	}
	if err := l.setSysctls(l.Underlay(), s.bridge); err != nil {
		return err
	}
	if err := l.addrs(h, br, s.v4, s.v6); err != nil {
		return err
	}
	return linkUp(h, s.bridge)
}

// setSysctls makes the namespace a router. For IPv6, a router asks for neighbours from its link-local address, which must be
// usable from the first packet: no duplicate address detection, as if the machine had been up for a while. A machine without IPv6
// has no such settings.
func (l *Lab) setSysctls(ns netns.Namespace, link string) error {
	sysctls := map[string]string{}
	if l.options.Family.V4() {
		sysctls["ipv4/ip_forward"] = "1"
	}
	if l.options.Family.V6() {
		sysctls["ipv6/conf/all/forwarding"], sysctls["ipv6/conf/"+link+"/accept_dad"] = "1", "0"
	}
	for key, value := range sysctls {
		if err := ns.Sysctl(key, value); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}

// plugIn makes the node's namespace and its cable to the bridge.
func (n *Node) plugIn() error {
	if err := claim(n.ns, n.dir(), n.makeDirs); err != nil {
		return err
	}
	if err := n.addCable(); err != nil {
		return err
	}
	if err := n.lab.setSysctls(n.ns, uplink); err != nil {
		return err
	}
	h, err := handle(n.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := errors.Join(linkUp(h, "lo"), linkUp(h, uplink)); err != nil {
		return err
	}
	return n.setAddrs(h)
}

func (n *Node) addCable() error {
	target, err := os.Open(n.ns.Path())
	if err != nil {
		return fmt.Errorf("open the node's namespace: %w", err)
	}
	defer target.Close()
	under, err := handle(n.lab.Underlay())
	if err != nil {
		return err
	}
	defer under.Close()
	br, err := under.LinkByName(n.subnet().bridge)
	if err != nil {
		return fmt.Errorf("find the underlay's bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = n.port(), n.lab.MTU(), br.Attrs().Index
	attrs.HardwareAddr = mac(n.lab.options.Name, n.Name, "port")
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerNamespace: netlink.NsFd(target.Fd()),
		PeerHardwareAddr: mac(n.lab.options.Name, n.Name)}
	if err := under.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect to the underlay: %w", err)
	}
	return linkUp(under, n.port())
}

// setAddrs gives eth0 the node's addresses, and nothing else, and a default route.
func (n *Node) setAddrs(h *netlink.Handle) error {
	link, err := h.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("find %s: %w", uplink, err)
	}
	old, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", uplink, err)
	}
	s := n.subnet()
	v4, v6 := netip.PrefixFrom(n.record.IPv4, s.v4.Bits()), netip.PrefixFrom(n.record.IPv6, s.v6.Bits())
	for _, a := range old {
		have, _ := netip.AddrFromSlice(a.IP)
		if have = have.Unmap(); have.IsLinkLocalUnicast() || have == v4.Addr() || have == v6.Addr() {
			continue
		}
		if err := h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove %v from %s: %w", have, uplink, err)
		}
	}
	if err := n.lab.addrs(h, link, v4, v6); err != nil {
		return err
	}
	for _, gateway := range n.lab.options.families(s.v4, s.v6) {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.Addr().AsSlice()}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("set the default route via %v: %w", gateway.Addr(), err)
		}
	}
	return nil
}

// addrs gives the link those addresses whose family the lab has.
func (l *Lab) addrs(h *netlink.Handle, link netlink.Link, v4, v6 netip.Prefix) error {
	for _, p := range l.options.families(v4, v6) {
		ipnet := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		addr := &netlink.Addr{IPNet: ipnet}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // usable at once: the lab knows that nobody else has it
		}
		if err := h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add %v to %s: %w", p, link.Attrs().Name, err)
		}
	}
	return nil
}

func linkUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// handle returns a netlink handle whose sockets are in the namespace.
func handle(ns netns.Namespace) (*netlink.Handle, error) {
	f, err := os.Open(ns.Path())
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", ns.Name(), err)
	}
	return h, nil
}

func mac(seeds ...string) net.HardwareAddr {
	m := kernel.StableMAC(seeds...)
	return m[:]
}
