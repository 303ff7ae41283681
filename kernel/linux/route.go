//go:build linux

package linux

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

const (
	rtnhOnLink       = unix.RTNH_F_ONLINK
	rtmCloned        = unix.RTM_F_CLONED
	sizeofRtNexthop  = 8 // struct rtnexthop
	sizeofRtViaFixed = 2 // struct rtvia without the address
)

// routeMessage is RTM_NEWROUTE or RTM_DELROUTE (struct rtmsg and its attributes), as far as a kernel.Route can say it.
type routeMessage struct {
	family    uint8
	dstLen    uint8
	table     uint32
	protocol  uint8
	routeType uint8
	flags     uint32

	dst      netip.Addr
	src      netip.Addr
	metric   uint32
	mtu      uint32
	hop      hop
	multiple []byte // RTA_MULTIPATH
}

// hop is a next hop by the index of its link.
type hop struct {
	gateway netip.Addr
	index   int32
	onLink  bool
	weight  uint8 // 0 for 1
}

func parseRouteMessage(payload []byte) (r routeMessage, err error) {
	if len(payload) < unix.SizeofRtMsg {
		return r, errMalformed
	}
	r.family, r.dstLen = payload[0], payload[1]
	r.table, r.protocol, r.routeType = uint32(payload[4]), payload[5], payload[7]
	r.flags = binary.NativeEndian.Uint32(payload[8:])
	r.hop.onLink = r.flags&rtnhOnLink != 0
	for attrs := payload[unix.SizeofRtMsg:]; len(attrs) > 0; {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return r, err
		}
		switch a.attrType {
		case unix.RTA_TABLE:
			r.table, _ = a.u32()
		case unix.RTA_DST:
			r.dst, _ = a.addr()
		case unix.RTA_PREFSRC:
			r.src, _ = a.addr()
		case unix.RTA_PRIORITY:
			r.metric, _ = a.u32()
		case unix.RTA_METRICS:
			if r.mtu, err = parseMTU(a.value); err != nil {
				return r, err
			}
		case unix.RTA_MULTIPATH:
			r.multiple = a.value
		default:
			r.hop.parse(a)
		}
		attrs = rest
	}
	return r, nil
}

// parse takes an attribute that a route with one next hop and an entry of RTA_MULTIPATH have in common.
func (h *hop) parse(a attribute) {
	switch a.attrType {
	case unix.RTA_GATEWAY:
		h.gateway, _ = a.addr()
	case unix.RTA_VIA: // an IPv4 route by way of an IPv6 gateway (RFC 8950)
		if len(a.value) > sizeofRtViaFixed {
			h.gateway, _ = netip.AddrFromSlice(a.value[sizeofRtViaFixed:])
		}
	case unix.RTA_OIF:
		index, _ := a.u32()
		h.index = int32(index)
	}
}

func parseMTU(attrs []byte) (mtu uint32, err error) {
	for len(attrs) > 0 {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return 0, err
		}
		if a.attrType == unix.RTAX_MTU {
			mtu, _ = a.u32()
		}
		attrs = rest
	}
	return mtu, nil
}

// nextHop splits the first struct rtnexthop with its attributes off the value of RTA_MULTIPATH.
func nextHop(buf []byte) (h hop, rest []byte, err error) {
	if len(buf) < sizeofRtNexthop {
		return h, nil, errMalformed
	}
	length := int(binary.NativeEndian.Uint16(buf))
	if length < sizeofRtNexthop || length > len(buf) {
		return h, nil, errMalformed
	}
	h.onLink = buf[2]&rtnhOnLink != 0
	if buf[3] != 0 {
		h.weight = uint8(min(int(buf[3])+1, 255)) // rtnh_hops is the weight less one
	}
	h.index = int32(binary.NativeEndian.Uint32(buf[4:]))
	for attrs := buf[sizeofRtNexthop:length]; len(attrs) > 0; {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return h, nil, err
		}
		h.parse(a)
		attrs = rest
	}
	return h, buf[min(align4(length), len(buf)):], nil
}

// prefix returns the destination. The default route has no RTA_DST.
func (r *routeMessage) prefix() (netip.Prefix, bool) {
	dst := r.dst
	switch {
	case dst.IsValid():
	case r.family == unix.AF_INET:
		dst = netip.IPv4Unspecified()
	default:
		dst = netip.IPv6Unspecified()
	}
	p := netip.PrefixFrom(dst, int(r.dstLen))
	return p, p.IsValid()
}

// mine reports whether the route is one that a dump of ours may hold: in the main table and, but for the protocol, such as
// kernel.Route can say.
func (r *routeMessage) mine() bool {
	_, known := routeType(r.routeType)
	return known && r.table == unix.RT_TABLE_MAIN && r.flags&rtmCloned == 0 &&
		(r.family == unix.AF_INET || r.family == unix.AF_INET6)
}

// fromFlannel reports whether the route has the form in which flanneld writes the route to a peer.
func (r *routeMessage) fromFlannel() bool {
	return r.protocol == unix.RTPROT_BOOT && r.hop.onLink && r.hop.gateway.IsValid() && r.hop.gateway == r.dst
}

func routeType(rtmType uint8) (kernel.RouteType, bool) {
	switch rtmType {
	case unix.RTN_UNICAST:
		return kernel.Unicast, true
	case unix.RTN_BLACKHOLE:
		return kernel.Blackhole, true
	case unix.RTN_UNREACHABLE:
		return kernel.Unreachable, true
	}
	return 0, false
}

// hopSlab hands out next hops from larger pieces: nearly every route has one, and an allocation for each would be
// more garbage than the routes themselves.
type hopSlab struct{ free []kernel.NextHop }

func (s *hopSlab) take(n int) []kernel.NextHop {
	if n > len(s.free) {
		s.free = make([]kernel.NextHop, max(n, 512))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

// route turns the message into a kernel.Route. Links that are gone have no name.
func (r *routeMessage) route(names func(int32) string, slab *hopSlab) (kernel.Route, error) {
	dst, ok := r.prefix()
	if !ok {
		return kernel.Route{}, errMalformed
	}
	kind, _ := routeType(r.routeType)
	out := kernel.Route{Dst: dst, Metric: r.metric, Type: kind, Src: r.src, MTU: int(r.mtu)}
	if kind != kernel.Unicast {
		return out, nil // IPv6 names the loopback device as the link of such a route
	}
	if r.multiple == nil {
		out.NextHops = slab.take(1)
		out.NextHops[0] = r.hop.named(names)
		return out, nil
	}
	count := 0
	for rest := r.multiple; len(rest) > 0; count++ {
		var err error
		if _, rest, err = nextHop(rest); err != nil {
			return out, err
		}
	}
	out.NextHops = slab.take(count)[:0]
	for rest := r.multiple; len(rest) > 0; {
		var h hop
		h, rest, _ = nextHop(rest) // parsed once above
		out.NextHops = append(out.NextHops, h.named(names))
	}
	slices.SortFunc(out.NextHops, kernel.NextHop.Compare)
	return out, nil
}

func (h hop) named(names func(int32) string) kernel.NextHop {
	link := ""
	if h.index != 0 {
		link = names(h.index)
	}
	return kernel.NextHop{Gateway: h.gateway, Link: link, OnLink: h.onLink, Weight: h.weight}
}
