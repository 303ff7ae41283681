//go:build linux

package path

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
)

// looker reads one network namespace.
type looker struct {
	*netlink.Handle
	links []netlink.Link
	v6    bool
}

// Look reads the network namespace of the calling thread, whose goroutine is to be locked to it.
func Look(ctx context.Context, q Query) (*View, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	defer h.Close()
	l, err := newLooker(h, q.Other)
	if err != nil {
		return nil, err
	}
	v := &View{Pod: inside(q), Host: l.link(q.Pod.HostLink), Bridge: l.link(q.Pod.Bridge)}
	v.Overlay = l.overlay()
	if v.Uplink, err = l.uplink(v); err != nil {
		return nil, err
	}
	v.Forwarding, v.Sysctl = l.forwarding(v)
	if v.Out, err = l.route(Route{Source: q.Pod.Address, To: q.Other, Incoming: presentName(v.Bridge)}, true); err != nil {
		return nil, err
	}
	incoming := []Link{v.Uplink}
	if v.Overlay != nil {
		incoming = append(incoming, v.Overlay.Link)
	}
	for _, in := range incoming {
		if !in.Found {
			continue
		}
		r, err := l.route(Route{Source: q.Other, To: q.Pod.Address, Incoming: in.Name}, true)
		if err != nil {
			return nil, err
		}
		v.In = append(v.In, r)
	}
	if v.Chains, err = chains(ctx, l.v6); err != nil {
		return nil, err
	}
	return v, nil
}

func presentName(l Link) string {
	if !l.Found {
		return ""
	}
	return l.Name
}

func newLooker(h *netlink.Handle, of netip.Addr) (*looker, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return &looker{Handle: h, links: links, v6: of.Is6()}, nil
}

func (l *looker) family() int {
	if l.v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (l *looker) index(name string) int {
	for _, link := range l.links {
		if link.Attrs().Name == name {
			return link.Attrs().Index
		}
	}
	return 0
}

func (l *looker) name(index int) string {
	for _, link := range l.links {
		if link.Attrs().Index == index {
			return link.Attrs().Name
		}
	}
	return ""
}

// link reads a link and its addresses of the family.
func (l *looker) link(name string) Link {
	out := Link{Name: name}
	for _, link := range l.links {
		a := link.Attrs()
		if a.Name != name {
			continue
		}
		out.Found, out.Up, out.Carrier = true, a.RawFlags&unix.IFF_UP != 0, a.RawFlags&unix.IFF_LOWER_UP != 0
		out.MTU, out.MAC, out.Master = a.MTU, a.HardwareAddr.String(), l.name(a.MasterIndex)
		out.RPFilter = max(number("net/ipv4/conf/all/rp_filter"), number("net/ipv4/conf/"+name+"/rp_filter"))
		addresses, err := l.AddrList(link, l.family())
		if err != nil {
			break // the link is going away
		}
		for _, p := range addresses {
			if addr, ok := netip.AddrFromSlice(p.IP); ok {
				bits, _ := p.Mask.Size()
				out.Addresses = append(out.Addresses, netip.PrefixFrom(addr.Unmap(), bits))
			}
		}
	}
	return out
}

// overlay returns the VXLAN device for addresses of the family, of several the one that has one.
func (l *looker) overlay() *Overlay {
	var found *Overlay
	for _, link := range l.links {
		vxlan, ok := link.(*netlink.Vxlan)
		if !ok || v6Device(vxlan.Name) != l.v6 || !flannelDevice(vxlan.Name) {
			continue
		}
		o := &Overlay{Link: l.link(vxlan.Name), VNI: vxlan.VxlanId, Port: vxlan.Port}
		if a, ok := netip.AddrFromSlice(vxlan.SrcAddr); ok {
			o.Local = a.Unmap()
		}
		if found == nil || len(o.Addresses) > len(found.Addresses) {
			found = o
		}
	}
	return found
}

// uplink returns the link that the node speaks to others by.
func (l *looker) uplink(v *View) (Link, error) {
	routes, err := l.RouteList(nil, l.family())
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Link{}, fmt.Errorf("list routes: %w", err)
	}
	defaults := slices.IndexFunc(routes, func(r netlink.Route) bool { return (r.Dst == nil || ones(r) == 0) && r.LinkIndex != 0 })
	name, byDefault := "", ""
	if defaults >= 0 {
		byDefault = l.name(routes[defaults].LinkIndex)
	}
	for _, link := range l.links {
		a := link.Attrs()
		if v.Overlay != nil {
			if x, ok := link.(*netlink.Vxlan); ok && a.Name == v.Overlay.Name {
				name = l.name(x.VtepDevIndex)
			}
		}
	}
	if name = cmp.Or(name, byDefault); name != "" {
		return l.link(name), nil
	}
	for _, link := range l.links {
		a := link.Attrs()
		if _, ok := link.(*netlink.Vxlan); ok || a.Name == "lo" || a.MasterIndex != 0 || a.Name == v.Bridge.Name || a.Name == v.Host.Name {
			continue
		}
		if found := l.link(a.Name); len(found.Addresses) > 0 {
			return found, nil
		}
	}
	return Link{}, nil
}

func ones(r netlink.Route) int {
	n, _ := r.Dst.Mask.Size()
	return n
}

// chains are those of nftables that are not Twill's, meet packets of the family within IP, and may drop them. What they jump to is not followed.
func chains(ctx context.Context, v6 bool) (out []Chain, err error) {
	h, err := nft.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	all, err := h.Survey(ctx)
	if err != nil {
		return nil, err
	}
	family := "ip"
	if v6 {
		family = "ip6"
	}
	for _, c := range all {
		foreign := !strings.HasPrefix(c.Table, kernel.TablePrefix) && (c.Family == "inet" || c.Family == family)
		if foreign && c.Base && c.Hook <= unix.NF_INET_POST_ROUTING && (c.Drops || c.Refusing > 0) {
			out = append(out, Chain{Family: c.Family, Table: c.Table, Name: c.Chain, Drops: c.Drops, Rules: c.Refusing})
		}
	}
	return out, nil
}
