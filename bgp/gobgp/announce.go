package gobgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

// setAnnouncements withdraws what is no longer wanted after it announced what is new, so that a prefix that another one replaces is not missing
// in between.
func (e *engine) setAnnouncements(want []bgp.Announcement) error {
	var errs []error
	var add []*apiutil.Path
	wanted := make(map[netip.Prefix]bgp.Announcement, len(want))
	for _, a := range want {
		if _, twice := wanted[a.Prefix]; twice {
			errs = append(errs, fmt.Errorf("announce %v: it is there twice", a.Prefix))
			continue
		}
		wanted[a.Prefix] = a
		if old, ok := e.announced[a.Prefix]; ok && same(old, a) {
			continue
		}
		path, err := pathOf(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		add = append(add, path)
	}
	for c := range slices.Chunk(add, chunk) {
		responses, err := e.server.AddPath(apiutil.AddPathRequest{Paths: c})
		if err != nil && len(responses) == 0 {
			errs = append(errs, fmt.Errorf("announce %d prefixes: %w", len(c), err))
			continue
		}
		for _, p := range c {
			prefix, _ := prefixOf(p.Nlri)
			e.announced[prefix] = wanted[prefix]
		}
	}

	var remove []*apiutil.Path
	for prefix, a := range e.announced {
		if _, ok := wanted[prefix]; ok {
			continue
		}
		if path, err := pathOf(a); err == nil {
			remove = append(remove, path)
		}
		delete(e.announced, prefix)
	}
	for c := range slices.Chunk(remove, chunk) {
		if err := e.server.DeletePath(apiutil.DeletePathRequest{Paths: c}); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %d prefixes: %w", len(c), err))
		}
	}
	return errors.Join(errs...)
}

// pathOf translates an announcement. A next hop that is not given is written as the unspecified address, which the library replaces by the
// session's local address.
func pathOf(a bgp.Announcement) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(a.Prefix)
	if err != nil {
		return nil, fmt.Errorf("announce %v: %w", a.Prefix, err)
	}
	v4 := a.Prefix.Addr().Is4()
	family, nextHop := packet.RF_IPv6_UC, netip.IPv6Unspecified()
	if v4 {
		family, nextHop = packet.RF_IPv4_UC, netip.IPv4Unspecified()
	}
	if a.NextHop.IsValid() {
		nextHop = a.NextHop
	}

	attrs := []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}
	var reach packet.PathAttributeInterface
	if v4 && nextHop.Is4() {
		reach, err = packet.NewPathAttributeNextHop(nextHop)
	} else {
		reach, err = packet.NewPathAttributeMpReachNLRI(family, []packet.PathNLRI{{NLRI: nlri}}, nextHop)
	}
	if err != nil {
		return nil, fmt.Errorf("announce %v via %v: %w", a.Prefix, nextHop, err)
	}
	attrs = append(attrs, reach)
	if a.MED != nil {
		attrs = append(attrs, packet.NewPathAttributeMultiExitDisc(*a.MED))
	}
	if a.LocalPref != 0 {
		attrs = append(attrs, packet.NewPathAttributeLocalPref(a.LocalPref))
	}
	if len(a.Communities) > 0 {
		values := make([]uint32, len(a.Communities))
		for i, c := range a.Communities {
			values[i] = uint32(c)
		}
		attrs = append(attrs, packet.NewPathAttributeCommunities(values))
	}
	if len(a.LargeCommunities) > 0 {
		values := make([]*packet.LargeCommunity, len(a.LargeCommunities))
		for i, c := range a.LargeCommunities {
			values[i] = packet.NewLargeCommunity(c.Global, c.Local1, c.Local2)
		}
		attrs = append(attrs, packet.NewPathAttributeLargeCommunities(values))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attrs, Age: time.Now().Unix()}, nil
}
