//go:build linux

package linux

import (
	"errors"
	"net/netip"
)

// UplinkOptions say how the uplink is found. The first of Iface, IfaceRegex and the public addresses that is set decides; with
// none of them it is the interface of the default route.
type UplinkOptions struct {
	Iface      string // name of the interface or one of its addresses
	IfaceRegex string // matched against interface names, then against their addresses
	PublicIP   netip.Addr
	PublicIPv6 netip.Addr
	IPv4, IPv6 bool // families of which the uplink must have an address
}

// Uplink is the interface that carries traffic between nodes.
type Uplink struct {
	Name  string
	Index int
	MTU   int        // bytes
	IPv4  netip.Addr // primary global address; the zero Addr when there is none
	IPv6  netip.Addr // global address that is neither temporary nor deprecated; the zero Addr when there is none
}

// FindUplink finds the uplink in the caller's current network namespace.
func FindUplink(opts UplinkOptions) (Uplink, error) { return Uplink{}, errors.ErrUnsupported }
