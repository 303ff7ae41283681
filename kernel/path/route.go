//go:build linux

package path

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route asks the kernel for the route of r's packet and follows it. An answer of no is an answer.
func (l *looker) route(r Route, follow bool) (Route, error) {
	options := &netlink.RouteGetOptions{Iif: r.Incoming}
	if r.Source.IsValid() {
		options.SrcAddr = r.Source.AsSlice()
	}
	found, err := l.RouteGetWithOptions(r.To.AsSlice(), options)
	if err == nil && len(found) == 1 && refusal(found[0].Type) == "" {
		r.Device = l.name(found[0].LinkIndex)
		r.Gateway = gateway(found[0])
		options.FIBMatch = true
		if match, err := l.RouteGetWithOptions(r.To.AsSlice(), options); err == nil && len(match) == 1 {
			r.Prefix, r.Protocol = prefix(match[0], r.To), int(match[0].Protocol)
		}
		r.Link = l.link(r.Device)
		if follow {
			return r, l.follow(&r)
		}
		return r, nil
	}
	return r, l.refused(&r, err)
}

// refused finds out why.
func (l *looker) refused(r *Route, refused error) error {
	switch {
	case errors.Is(refused, unix.EXDEV):
		r.Refused = ReversePath
		return nil
	case errors.Is(refused, unix.EHOSTUNREACH):
		r.Refused = NotForwarding
	case refused != nil:
		r.Refused = refused.Error()
	}
	best, err := l.best(r.To)
	if err != nil {
		return err
	}
	if best == nil {
		r.Refused = NoRoute
		return nil
	}
	r.Prefix, r.Protocol = prefix(*best, r.To), int(best.Protocol)
	if word := refusal(best.Type); word != "" {
		r.Refused = word
	} else if errors.Is(refused, unix.EINVAL) && r.Incoming != "" && l.link(r.Incoming).RPFilter > 0 {
		r.Refused = ReversePath // newer kernels have one error for every source that should not be
	}
	return nil
}

// best returns the route of the main table that matches with the most bits.
func (l *looker) best(to netip.Addr) (*netlink.Route, error) {
	all, err := l.RouteList(nil, l.family())
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var best *netlink.Route
	for i := range all {
		if p := prefix(all[i], to); p.Contains(to) && (best == nil || p.Bits() > prefix(*best, to).Bits()) {
			best = &all[i]
		}
	}
	return best, nil
}

func refusal(routeType int) string {
	switch routeType {
	case unix.RTN_BLACKHOLE:
		return Blackhole
	case unix.RTN_UNREACHABLE:
		return Unreachable
	case unix.RTN_PROHIBIT:
		return Prohibit
	}
	return ""
}

// prefix returns a route's destination; a default route's is that of the address's family.
func prefix(r netlink.Route, to netip.Addr) netip.Prefix {
	if r.Dst == nil {
		return netip.PrefixFrom(zero(to), 0)
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	if !ok {
		return netip.PrefixFrom(zero(to), 0)
	}
	return netip.PrefixFrom(a.Unmap(), ones(r))
}

func zero(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func gateway(r netlink.Route) netip.Addr {
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		return a.Unmap()
	}
	if via, ok := r.Via.(*netlink.Via); ok && via != nil {
		a, _ := netip.AddrFromSlice(via.Addr)
		return a.Unmap()
	}
	return netip.Addr{}
}

// follow reads what the packet meets behind the route.
func (l *looker) follow(r *Route) error {
	var err error
	if r.Neighbor, err = l.neighbor(r.NextHop(), r.Device); err != nil {
		return err
	}
	if !flannelDevice(r.Device) || r.Neighbor.MAC == "" {
		return nil
	}
	entries, err := l.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(l.index(r.Device))})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list FDB entries of %s: %w", r.Device, err)
	}
	for _, e := range entries {
		if a, ok := netip.AddrFromSlice(e.IP); ok && e.HardwareAddr.String() == r.Neighbor.MAC {
			r.FDB = append(r.FDB, a.Unmap())
		}
	}
	if len(r.FDB) == 0 {
		return nil
	}
	below := *l
	below.v6 = r.FDB[0].Is6()
	underlay, err := below.route(Route{To: r.FDB[0]}, true)
	r.Underlay = &underlay
	return err
}

// neighbor reads an entry of the neighbour table.
func (l *looker) neighbor(a netip.Addr, device string) (Neighbor, error) {
	out := Neighbor{Address: a}
	list, err := l.NeighList(l.index(device), family(a))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return out, fmt.Errorf("list neighbours on %s: %w", device, err)
	}
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
			out.Found, out.State = true, stateWord(n.State)
			if len(n.HardwareAddr) > 0 {
				out.MAC = n.HardwareAddr.String()
			}
		}
	}
	return out, nil
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func stateWord(state int) string {
	switch state {
	case unix.NUD_INCOMPLETE:
		return "incomplete"
	case unix.NUD_REACHABLE:
		return "reachable"
	case unix.NUD_STALE:
		return "stale"
	case unix.NUD_DELAY:
		return "delay"
	case unix.NUD_PROBE:
		return "probe"
	case unix.NUD_FAILED:
		return "failed"
	case unix.NUD_NOARP:
		return "noarp"
	case unix.NUD_PERMANENT:
		return "permanent"
	}
	return "none"
}
