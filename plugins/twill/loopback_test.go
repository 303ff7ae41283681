//go:build linux

package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// sendLoopbackTo makes the namespace send packets for 127.0.0.1 to a gateway on eth0, as somebody who means harm would.
func (n netns) sendLoopbackTo(gateway netip.Addr) {
	n.t.Helper()
	n.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("127.0.0.1/8")
		_, dst, _ := net.ParseCIDR("127.0.0.1/32")
		return errors.Join(netlink.AddrDel(lo, addr), os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: dst, Gw: gateway.AsSlice()}))
	})
}

// A port that is mapped on 127.0.0.1 is for the node alone. Translation comes before the kernel drops what is addressed to a loopback
// address and comes from outside, so the table must not translate such packets.
func TestLoopbackPortsAreTheNodesAlone(t *testing.T) {
	n := newNode(t, subnet4)
	outside := n.outside()
	p := n.add("a", portMappings(mapping(8083, "tcp", "127.0.0.1"), mapping(8080, "tcp", "")))
	p.echo(7)
	n.echo(99)
	outside.sendLoopbackTo(node4.Addr())
	for _, port := range []uint16{8083, 8080} {
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		if seen, err := outside.ask("tcp", to); err == nil {
			t.Errorf("another machine, seen as %s, reaches %s of the node", seen, to)
		}
		if _, err := n.ask("tcp", to); err != nil {
			t.Errorf("the node does not reach its own %s: %v", to, err)
		}
	}
}
