package dnat

import (
	"net/netip"

	"github.com/google/go-cmp/cmp/cmpopts"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})
