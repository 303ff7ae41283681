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
	"golang.org/x/sys/unix"
)

// Routes returns the routes of the main table that bear kernel.RouteProtocol, and those on the links that flanneld left.
func (h *Handle) Routes(ctx context.Context, links []string) ([]kernel.Route, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := newNames(h.conn.fd)
	list := make([]kernel.Route, 0, h.sizes[kernel.KindRoute])
	selections := []routeSelection{{protocol: kernel.RouteProtocol}}
	for _, link := range unique(links) {
		index, err := names.index(link)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list routes on %s: %w", link, err)
		}
		selections = append(selections, routeSelection{protocol: unix.RTPROT_BOOT, index: index})
	}
	for _, selection := range selections {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			selection.family = family
			var err error
			if list, err = h.dumpRoutes(ctx, list, selection, names); err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
		}
	}
	h.sizes[kernel.KindRoute] = len(list)
	return list, nil
}

// routeSelection is what the kernel filters a dump of the main table by (ip_valid_fib_dump_req): a host with a full BGP
// table is not made to send it.
type routeSelection struct {
	family   uint8
	protocol uint8
	index    int32 // of the outgoing link; 0 for any
}

func (h *Handle) dumpRoutes(ctx context.Context, list []kernel.Route, s routeSelection, names *names) ([]kernel.Route, error) {
	var slab hopSlab
	return dump(ctx, h.conn, list, func(e *encoder, seq uint32) {
		e.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
		e.bytes(s.family, 0, 0, 0, unix.RT_TABLE_MAIN, s.protocol, 0, 0)
		e.u32(0)
		if s.index != 0 {
			e.attrU32(unix.RTA_OIF, uint32(s.index))
		}
		e.end()
	}, func(m message) (kernel.Route, bool, error) {
		r, err := parseRouteMessage(m.payload)
		if err != nil || !r.mine() || r.protocol != s.protocol || s.index != 0 && !r.fromFlannel() {
			return kernel.Route{}, false, err
		}
		route, err := r.route(names.name, &slab)
		return route, true, err
	})
}

// ApplyRoutes makes, replaces or removes routes of the main table.
//
// NLM_F_REPLACE puts the new route where one with the same destination and metric is, whoever made that one. IPv4 keeps
// all next hops in one object (fib_table_insert), so a replacement is exact. IPv6 has an object for each next hop: the kernel
// replaces the whole set by the first new one and appends the others (ip6_route_multipath_add, fib6_add_rt2node), which is
// exact too as long as the request names all of them in RTA_MULTIPATH and is not sent one by one.
func (h *Handle) ApplyRoutes(ctx context.Context, changes []kernel.Change[kernel.Route]) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := h.applyRoutes(ctx, changes)
	return h.retryBehindOwnPrefix(ctx, changes, errs)
}

// retryBehindOwnPrefix tries again to set IPv6 routes by way of an address of their own destination, as the overlay has them, while
// another route leads to that destination over another link: the kernel refuses them, since it looks the gateway up and finds that route
// (ip6_route_check_nh_onlink). A host route to the gateway, for the time of the change, shows it the way; so the new route is there
// before the old one goes.
func (h *Handle) retryBehindOwnPrefix(ctx context.Context, changes []kernel.Change[kernel.Route], errs []error) []error {
	var refused []int
	var retries, aids, undo []kernel.Change[kernel.Route]
	for i, err := range errs {
		r := &changes[i].Value
		if !errors.Is(err, unix.EINVAL) || changes[i].Delete || !r.Dst.Addr().Is6() || len(r.NextHops) != 1 ||
			!r.NextHops[0].OnLink || !r.Dst.Contains(r.NextHops[0].Gateway) {
			continue
		}
		gateway := r.NextHops[0].Gateway
		aid := kernel.Route{Dst: netip.PrefixFrom(gateway, gateway.BitLen()), Metric: aidMetric, NextHops: []kernel.NextHop{{Link: r.NextHops[0].Link}}}
		refused = append(refused, i)
		retries = append(retries, changes[i])
		aids = append(aids, kernel.Change[kernel.Route]{Value: aid})
		undo = append(undo, kernel.Change[kernel.Route]{Value: aid, Delete: true})
	}
	if len(refused) == 0 {
		return errs
	}
	h.applyRoutes(ctx, aids) // the retry tells whether it helped
	again := h.applyRoutes(ctx, retries)
	undone := h.applyRoutes(ctx, undo)
	for k, i := range refused {
		errs[i] = nil
		for _, list := range [][]error{again, undone} {
			if list != nil {
				errs[i] = errors.Join(errs[i], list[k])
			}
		}
	}
	if slices.IndexFunc(errs, func(err error) bool { return err != nil }) < 0 {
		return nil
	}
	return errs
}

// aidMetric is that of the host routes of retryBehindOwnPrefix. Nobody else has a use for one so low.
const aidMetric = 1

func (h *Handle) applyRoutes(ctx context.Context, changes []kernel.Change[kernel.Route]) []error {
	names := newNames(h.conn.fd)
	return apply(ctx, h.conn, changes, func(e *encoder, change *kernel.Change[kernel.Route], seq uint32) error {
		r := &change.Value
		if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.Type > kernel.Unreachable {
			return fmt.Errorf("want a masked destination and a known type: %w", unix.EINVAL)
		}
		if change.Delete {
			return e.deleteRoute(r, names, seq)
		}
		return e.newRoute(r, names, seq)
	})
}

// deleteRoute appends RTM_DELROUTE for the route of ours with this key, whatever its next hops are: without a gateway in the
// request all of them go (fib_table_delete; ip6_route_del with fc_delete_all_nh). Metric 0 of an IPv4 route is a
// wildcard to the kernel and finds the lowest metric first. A route in flanneld's form may be one that flanneld left:
// then RTM_DELROUTE for exactly that one follows.
func (e *encoder) deleteRoute(r *kernel.Route, names *names, seq uint32) error {
	key := r.Key()
	e.begin(unix.RTM_DELROUTE, 0, seq)
	e.rtmsg(r, kernel.RouteProtocol, unix.RT_SCOPE_NOWHERE, 0)
	e.routeKey(key)
	e.end()
	if len(r.NextHops) != 1 || !r.NextHops[0].OnLink || r.NextHops[0].Gateway != r.Dst.Addr() {
		return nil
	}
	index, err := names.index(r.NextHops[0].Link)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	e.begin(unix.RTM_DELROUTE, 0, seq)
	e.rtmsg(r, unix.RTPROT_BOOT, unix.RT_SCOPE_NOWHERE, 0)
	e.routeKey(key)
	e.attrAddr(unix.RTA_GATEWAY, r.NextHops[0].Gateway)
	e.attrU32(unix.RTA_OIF, uint32(index))
	e.end()
	return nil
}

func (e *encoder) newRoute(r *kernel.Route, names *names, seq uint32) error {
	e.begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq)
	flags := uint32(0)
	if len(r.NextHops) == 1 && r.NextHops[0].OnLink {
		flags = rtnhOnLink
	}
	e.rtmsg(r, kernel.RouteProtocol, routeScope(r), flags)
	e.routeKey(r.Key())
	if r.Src.IsValid() {
		e.attrAddr(unix.RTA_PREFSRC, r.Src)
	}
	if r.MTU > 0 {
		at := e.nest(unix.RTA_METRICS)
		e.attrU32(unix.RTAX_MTU, uint32(r.MTU))
		e.endNest(at)
	}
	err := e.nextHops(r, names)
	e.end()
	return err
}

// nextHops appends the way of the route.
func (e *encoder) nextHops(r *kernel.Route, names *names) error {
	switch {
	case r.Type != kernel.Unicast && len(r.NextHops) > 0:
		return fmt.Errorf("a route that is not unicast has no next hop: %w", unix.EINVAL)
	case r.Type != kernel.Unicast:
		return nil
	case len(r.NextHops) == 0:
		return fmt.Errorf("a unicast route needs a next hop: %w", unix.EINVAL)
	case len(r.NextHops) == 1:
		index, err := hopIndex(&r.NextHops[0], names)
		if err != nil {
			return err
		}
		e.gateway(r, r.NextHops[0].Gateway)
		if index != 0 {
			e.attrU32(unix.RTA_OIF, uint32(index))
		}
		return nil
	}
	list := e.nest(unix.RTA_MULTIPATH)
	for i := range r.NextHops {
		h := &r.NextHops[i]
		index, err := hopIndex(h, names)
		if err != nil {
			return err
		}
		flags := byte(0)
		if h.OnLink {
			flags = rtnhOnLink
		}
		at := len(e.buf)
		e.u16(0)
		e.bytes(flags, max(h.Weight, 1)-1)
		e.u32(uint32(index))
		e.gateway(r, h.Gateway)
		binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at))
	}
	e.endNest(list)
	return nil
}

func hopIndex(h *kernel.NextHop, names *names) (int32, error) {
	switch {
	case h.Link != "":
		return names.index(h.Link)
	case !h.Gateway.IsValid():
		return 0, fmt.Errorf("a next hop needs a gateway or a link: %w", unix.EINVAL)
	}
	return 0, nil
}

// gateway appends RTA_GATEWAY, or RTA_VIA for a gateway of the other family (RFC 8950), or nothing.
func (e *encoder) gateway(r *kernel.Route, gateway netip.Addr) {
	switch {
	case !gateway.IsValid():
	case gateway.Is4() == r.Dst.Addr().Is4():
		e.attrAddr(unix.RTA_GATEWAY, gateway)
	default:
		at := e.nest(unix.RTA_VIA)
		e.u16(uint16(family(gateway)))
		e.addr(gateway)
		e.endNest(at)
	}
}

// routeScope is how far away the destination is: on the link, or behind a gateway. IPv6 has no scopes and ignores it.
//
// Behind a gateway the scope is a number that depends on the gateway, instead of RT_SCOPE_UNIVERSE. The kernel keeps next
// hops in a hash table whose key leaves the gateway out (net/ipv4/fib_semantics.c, fib_info_hashfn: count of next
// hops, protocol, scope, source, metric, link). 20,000 peers behind one VXLAN device would share a single chain, each insertion would walk
// it to its end, and all of them would take 8 s instead of 0.1 s. Scopes between RT_SCOPE_UNIVERSE and RT_SCOPE_SITE
// are free for "interior routes" (include/uapi/linux/rtnetlink.h) and mean the same to every lookup: fib_table_lookup asks only
// whether the scope is less than the one sought, which is RT_SCOPE_UNIVERSE or RT_SCOPE_LINK.
func routeScope(r *kernel.Route) uint8 {
	sum, behind := uint32(0), false
	for i := range r.NextHops {
		if gateway := r.NextHops[i].Gateway; gateway.IsValid() {
			b := gateway.As16()
			behind = true
			sum += (binary.BigEndian.Uint32(b[8:]) ^ binary.BigEndian.Uint32(b[12:])) * 0x9e3779b1 // golden ratio: spreads runs of addresses
		}
	}
	switch {
	case behind:
		return uint8(1 + (sum>>16)%(unix.RT_SCOPE_SITE-1))
	case r.Type == kernel.Unicast:
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

// rtmsg appends struct rtmsg. A deletion (scope nowhere) fits every type of route.
func (e *encoder) rtmsg(r *kernel.Route, protocol, scope uint8, flags uint32) {
	rtmType := uint8(unix.RTN_UNSPEC)
	if scope != unix.RT_SCOPE_NOWHERE {
		rtmType = [...]uint8{unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE}[r.Type]
	}
	e.bytes(family(r.Dst.Addr()), uint8(r.Dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, scope, rtmType)
	e.u32(flags)
}

func (e *encoder) routeKey(key kernel.RouteKey) {
	e.attrAddr(unix.RTA_DST, key.Dst.Addr())
	if key.Metric != 0 {
		e.attrU32(unix.RTA_PRIORITY, key.Metric)
	}
}
