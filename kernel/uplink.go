package kernel

import (
	"net/netip"
	"slices"
)

// Uplink is the link by which a node reaches the other nodes, as the kernel has it now.
type Uplink struct {
	Name string
	MTU  int // bytes

	// Addresses are the link's global addresses of both families with their prefix lengths, in the kernel's order: the first of a family
	// is the primary one. Addresses that are deprecated, tentative or secondary come last.
	Addresses []netip.Prefix

	// Routes are those of the host that are not Twill's, by which addresses beyond the link's own networks are reached. Only a node that
	// routes to such addresses looks them up.
	Routes []Route
}

// Addr returns the primary IPv4 or IPv6 address, or the zero Addr when the link has none of that family.
func (u Uplink) Addr(ipv6 bool) netip.Addr {
	for _, p := range u.Addresses {
		if p.Addr().Is6() == ipv6 {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Has reports whether addr is one of the link's own addresses.
func (u Uplink) Has(addr netip.Addr) bool {
	return slices.ContainsFunc(u.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr })
}

// OnLink reports whether addr is in a prefix of the link, so that it is reached without a gateway.
func (u Uplink) OnLink(addr netip.Addr) bool {
	return slices.ContainsFunc(u.Addresses, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Equal reports whether u and o are the same in every field.
func (u Uplink) Equal(o Uplink) bool {
	return u.Name == o.Name && u.MTU == o.MTU && slices.Equal(u.Addresses, o.Addresses) && slices.EqualFunc(u.Routes, o.Routes, Route.Equal)
}
