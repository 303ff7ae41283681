//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// addressMessage is RTM_NEWADDR or RTM_DELADDR (struct ifaddrmsg).
type addressMessage struct {
	index  int32
	scope  uint8
	flags  uint32 // IFA_F_*
	prefix netip.Prefix
}

func parseAddressMessage(payload []byte) (m addressMessage, err error) {
	if len(payload) < unix.SizeofIfAddrmsg {
		return m, errMalformed
	}
	bits := int(payload[1])
	m.flags, m.scope = uint32(payload[2]), payload[3]
	m.index = int32(binary.NativeEndian.Uint32(payload[4:]))
	var local, address netip.Addr
	for attrs := payload[unix.SizeofIfAddrmsg:]; len(attrs) > 0; {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return m, err
		}
		switch a.attrType {
		case unix.IFA_LOCAL:
			local, _ = a.addr()
		case unix.IFA_ADDRESS:
			address, _ = a.addr()
		case unix.IFA_FLAGS:
			m.flags, _ = a.u32()
		}
		attrs = rest
	}
	if !local.IsValid() { // IPv6 without a peer
		local = address
	}
	m.prefix = netip.PrefixFrom(local, bits)
	if !m.prefix.IsValid() {
		return m, errMalformed
	}
	return m, nil
}

// global reports whether the address is valid beyond the link.
func (m *addressMessage) global() bool { return m.scope < unix.RT_SCOPE_LINK }

// dumpAddresses lists the addresses of both families of the link with the index, or of all links when it is 0, in the kernel's order.
func dumpAddresses(ctx context.Context, c *conn, index int32) ([]addressMessage, error) {
	return dump(ctx, c, nil, func(e *encoder, seq uint32) {
		// With strict checking, ifa_index selects one link (inet_valid_dump_ifaddr_req).
		e.begin(unix.RTM_GETADDR, unix.NLM_F_DUMP, seq)
		e.bytes(unix.AF_UNSPEC, 0, 0, 0)
		e.u32(uint32(index))
		e.end()
	}, func(m message) (addressMessage, bool, error) {
		a, err := parseAddressMessage(m.payload)
		return a, index == 0 || a.index == index, err
	})
}
