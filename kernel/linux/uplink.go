//go:build linux

package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// UplinkOptions say how the uplink is found. The first that is set decides: Iface, IfaceRegex, a public address that an
// interface holds; else it is the interface of the default route.
type UplinkOptions struct {
	Iface      string         // an interface's name, or one of its addresses
	IfaceRegex *regexp.Regexp // matched against the interfaces' names, then against their addresses
	PublicIP   netip.Addr     // may be that of a NAT device in front of the node: then it decides nothing
	PublicIPv6 netip.Addr
	IPv4, IPv6 bool // families of which the uplink must have an address
}

// FindUplink finds the uplink in the caller's current network namespace. The error says what was looked for and which
// interfaces there are.
func FindUplink(opts UplinkOptions) (uplink kernel.Uplink, err error) {
	c, err := dialRoute()
	if err != nil {
		return kernel.Uplink{}, fmt.Errorf("find uplink: %w", err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	s := uplinkSearch{opts: opts, conn: c}
	if err := s.read(context.Background()); err != nil {
		return kernel.Uplink{}, fmt.Errorf("find uplink: %w", err)
	}
	found, looked, err := s.find(context.Background())
	if err != nil {
		return kernel.Uplink{}, fmt.Errorf("find uplink: %w", err)
	}
	if found == nil {
		return kernel.Uplink{}, fmt.Errorf("find uplink: no interface %s; there are %s", looked, s.inventory())
	}
	for _, f := range []struct {
		name         string
		wanted, ipv6 bool
	}{{"IPv4", opts.IPv4, false}, {"IPv6", opts.IPv6, true}} {
		if f.wanted && !found.Addr(f.ipv6).IsValid() {
			return kernel.Uplink{}, fmt.Errorf("find uplink: the interface %s is %s, which has no global %s address; there are %s",
				looked, found.Name, f.name, s.inventory())
		}
	}
	return *found, nil
}

// uplinkSearch holds what a search looks at.
type uplinkSearch struct {
	opts  UplinkOptions
	conn  *conn
	links []candidate
}

type candidate struct {
	kernel.Uplink
	index int32
	// all are the addresses that one may name the interface by; Addresses has only those of use.
	all []netip.Prefix
}

func (s *uplinkSearch) read(ctx context.Context) error {
	links, err := dumpLinks(ctx, s.conn)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	addresses, err := dumpAddresses(ctx, s.conn, 0)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	// Within equal rank the address that the link was given first comes first, so that a further one, such as a virtual address that
	// moves between nodes, does not become the node's. The kernel lists them so for IPv4, and the other way round for IPv6
	// (net/ipv6/addrconf.c, ipv6_link_dev_addr).
	slices.SortStableFunc(addresses, func(a, b addressMessage) int { return cmp.Compare(a.prefix.Addr().BitLen(), b.prefix.Addr().BitLen()) })
	if i := slices.IndexFunc(addresses, func(a addressMessage) bool { return a.prefix.Addr().Is6() }); i >= 0 {
		slices.Reverse(addresses[i:])
	}
	slices.SortStableFunc(addresses, func(a, b addressMessage) int { return cmp.Compare(a.rank(), b.rank()) })
	for _, l := range links {
		c := candidate{index: l.index}
		c.Name, c.MTU = l.name, int(l.mtu)
		for _, a := range addresses {
			if a.index != l.index {
				continue
			}
			c.all = append(c.all, a.prefix)
			if a.global() && !a.prefix.Addr().IsLinkLocalUnicast() && !a.prefix.Addr().IsLoopback() && a.rank() < unusable {
				c.Addresses = append(c.Addresses, a.prefix)
			}
		}
		s.links = append(s.links, c)
	}
	return nil
}

// unusable is the rank of an address that another node holds.
const unusable = 3

// rank orders addresses by how well they do as a node's own: stable ones, then secondary, temporary and tentative ones, then
// deprecated ones. IFA_F_SECONDARY and IFA_F_TEMPORARY are the same bit, for IPv4 and IPv6.
func (m *addressMessage) rank() int {
	switch {
	case m.flags&unix.IFA_F_DADFAILED != 0:
		return unusable
	case m.flags&unix.IFA_F_DEPRECATED != 0:
		return 2
	case m.flags&unix.IFA_F_SECONDARY != 0,
		m.flags&unix.IFA_F_TENTATIVE != 0 && m.flags&unix.IFA_F_OPTIMISTIC == 0:
		return 1
	}
	return 0
}

// find returns the uplink, or nil, and what it was looked for by.
func (s *uplinkSearch) find(ctx context.Context) (found *kernel.Uplink, looked string, err error) {
	switch {
	case s.opts.Iface != "":
		addr, _ := netip.ParseAddr(s.opts.Iface)
		found = s.first(func(c *candidate) bool { return c.Name == s.opts.Iface || addr.IsValid() && c.holds(addr) })
		prefer(found, addr)
		return found, fmt.Sprintf("named %q or with that address", s.opts.Iface), nil
	case s.opts.IfaceRegex != nil:
		looked = fmt.Sprintf("whose name or address matches %q", s.opts.IfaceRegex)
		if found = s.first(func(c *candidate) bool { return s.opts.IfaceRegex.MatchString(c.Name) }); found != nil {
			return found, looked, nil
		}
		return s.first(func(c *candidate) bool {
			return slices.ContainsFunc(c.all, func(p netip.Prefix) bool { return s.opts.IfaceRegex.MatchString(p.Addr().String()) })
		}), looked, nil
	}
	for _, public := range []netip.Addr{s.opts.PublicIP, s.opts.PublicIPv6} {
		if !public.IsValid() {
			continue
		}
		if found = s.first(func(c *candidate) bool { return c.holds(public) }); found != nil {
			return found, "with the address " + public.String(), nil
		}
	}
	index, err := s.defaultRoute(ctx)
	if err != nil {
		return nil, "", err
	}
	return s.first(func(c *candidate) bool { return index != 0 && c.index == index }), "with a default route", nil
}

// prefer moves the address to the front, if the uplink has it: who names the uplink by one of its addresses means that one.
func prefer(uplink *kernel.Uplink, addr netip.Addr) {
	if uplink == nil {
		return
	}
	at := slices.IndexFunc(uplink.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr })
	if at > 0 {
		named := uplink.Addresses[at]
		copy(uplink.Addresses[1:], uplink.Addresses[:at])
		uplink.Addresses[0] = named
	}
}

func (s *uplinkSearch) first(match func(*candidate) bool) *kernel.Uplink {
	for i := range s.links {
		if match(&s.links[i]) {
			return &s.links[i].Uplink
		}
	}
	return nil
}

func (c *candidate) holds(addr netip.Addr) bool {
	return slices.ContainsFunc(c.all, func(p netip.Prefix) bool { return p.Addr() == addr })
}

// defaultRoute returns the index of the link that the preferred default route leaves by, or 0: of IPv4 unless only IPv6 is asked
// for, else of the other family.
func (s *uplinkSearch) defaultRoute(ctx context.Context) (int32, error) {
	families := []uint8{unix.AF_INET, unix.AF_INET6}
	if s.opts.IPv6 && !s.opts.IPv4 {
		slices.Reverse(families)
	}
	for _, family := range families {
		routes, err := dumpDefaultRoutes(ctx, s.conn, family)
		if err != nil {
			return 0, fmt.Errorf("list routes: %w", err)
		}
		if len(routes) > 0 {
			best := slices.MinFunc(routes, func(a, b defaultRoute) int { return cmp.Compare(a.metric, b.metric) })
			return best.index, nil
		}
	}
	return 0, nil
}

type defaultRoute struct {
	metric uint32
	index  int32
}

func dumpDefaultRoutes(ctx context.Context, c *conn, family uint8) ([]defaultRoute, error) {
	return dump(ctx, c, nil, func(e *encoder, seq uint32) {
		e.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
		e.bytes(family, 0, 0, 0, unix.RT_TABLE_MAIN, 0, 0, unix.RTN_UNICAST)
		e.u32(0)
		e.end()
	}, func(m message) (defaultRoute, bool, error) {
		r, err := parseRouteMessage(m.payload)
		if err != nil || r.dstLen != 0 || r.routeType != unix.RTN_UNICAST || !r.mine() {
			return defaultRoute{}, false, err
		}
		if r.multiple != nil {
			if r.hop, _, err = nextHop(r.multiple); err != nil {
				return defaultRoute{}, false, err
			}
		}
		return defaultRoute{r.metric, r.hop.index}, r.hop.index != 0, nil
	})
}

// inventory names the interfaces and their addresses, for an error.
func (s *uplinkSearch) inventory() string {
	var list []string
	for _, c := range s.links {
		entry := c.Name
		if len(c.Addresses) > 0 {
			entry += fmt.Sprint(" ", c.Addresses)
		}
		list = append(list, entry)
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
