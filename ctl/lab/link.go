package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Unplug pulls the node's cable: its uplink loses its carrier. PlugIn puts it back.
func (n *Node) Unplug() error { return n.changePort("unplug", (*netlink.Handle).LinkSetDown) }

// PlugIn undoes Unplug.
func (n *Node) PlugIn() error { return n.changePort("plug in", (*netlink.Handle).LinkSetUp) }

// Isolate cuts the node off as a failing switch would: its uplink keeps its carrier, and no packet gets through in either direction.
func (n *Node) Isolate() error { return n.changePort("isolate", (*netlink.Handle).LinkSetNoMaster) }

// Rejoin undoes Isolate.
func (n *Node) Rejoin() error {
	return n.changePort("rejoin", func(h *netlink.Handle, port netlink.Link) error {
		br, err := h.LinkByName(n.subnet().bridge)
		if err != nil {
			return err
		}
		return h.LinkSetMaster(port, br)
	})
}

func (n *Node) removeCable() error {
	err := n.changePort("remove the cable of", (*netlink.Handle).LinkDel)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	return err
}

func (n *Node) changePort(what string, change func(*netlink.Handle, netlink.Link) error) error {
	h, err := handle(n.lab.Underlay())
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, n.Name, err)
	}
	defer h.Close()
	port, err := h.LinkByName(n.port())
	if err == nil {
		err = change(h, port)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, n.Name, err)
	}
	return nil
}

// SetAddrs changes the node's underlay addresses, as a DHCP server would: the old ones go away. An address of a family that the lab
// does not have is ignored; the zero Addr leaves that family as it is.
func (n *Node) SetAddrs(v4, v6 netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v4.IsValid() {
		n.record.IPv4 = v4
	}
	if v6.IsValid() {
		n.record.IPv6 = v6
	}
	h, err := handle(n.ns)
	if err != nil {
		return fmt.Errorf("set the addresses of %s: %w", n.Name, err)
	}
	defer h.Close()
	if err := errors.Join(n.setAddrs(h), n.save()); err != nil {
		return fmt.Errorf("set the addresses of %s: %w", n.Name, err)
	}
	return nil
}

// MTU returns the underlay's MTU in bytes.
func (l *Lab) MTU() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.options.MTU
}

// SetMTU changes the MTU of the whole underlay: its bridge, its cables, the nodes' uplinks and those of nodes to come.
func (l *Lab) SetMTU(mtu int) error {
	l.mu.Lock()
	l.options.MTU = mtu
	err := save(l.dir.lab(), labFile{Options: l.options, Complete: true})
	l.mu.Unlock()
	if err != nil {
		return err
	}
	under, err := handle(l.Underlay())
	if err != nil {
		return fmt.Errorf("set the underlay's MTU: %w", err)
	}
	defer under.Close()
	var failed []error
	for _, n := range l.Nodes() {
		failed = append(failed, setMTU(under, n.port(), mtu), n.SetMTU(mtu))
	}
	for _, s := range l.options.subnets() {
		failed = append(failed, setMTU(under, s.bridge, mtu))
	}
	return errors.Join(failed...)
}

// SetMTU changes the MTU of the node's uplink.
func (n *Node) SetMTU(mtu int) error {
	h, err := handle(n.ns)
	if err != nil {
		return fmt.Errorf("set the MTU of %s: %w", n.Name, err)
	}
	defer h.Close()
	if err := setMTU(h, uplink, mtu); err != nil {
		return fmt.Errorf("set the MTU of %s: %w", n.Name, err)
	}
	return nil
}

func setMTU(h *netlink.Handle, name string, mtu int) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", name, mtu, err)
	}
	return nil
}
