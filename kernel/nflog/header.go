package nflog

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Header is what an IP packet says about itself. What a packet does not have, or what was cut off, is zero.
type Header struct {
	Src, Dst         netip.Addr
	Protocol         uint8  // IPPROTO_*, behind the extension headers of IPv6
	SrcPort, DstPort uint16 // of TCP, UDP, UDP-Lite, SCTP and DCCP
	ICMPType         uint8  // of ICMP and ICMPv6
	ICMPCode         uint8
	Fragment         bool // not the first one: ports and types are in that one
	Length           int  // of the whole packet, in bytes, as it says; 0 for an IPv6 jumbogram
}

const (
	ipv4Header = 20
	ipv6Header = 40

	// maxExtensions is how many extension headers are passed over. Of a regular packet there are five at most (RFC 8200, section 4.1).
	maxExtensions = 8

	protocolDCCP    = 33
	protocolUDPLite = 136
)

// parse reads the headers of a packet, of which b may be the beginning only.
func parse(b []byte) Header {
	switch {
	case len(b) >= ipv4Header && b[0]>>4 == 4:
		return parseIPv4(b)
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		return parseIPv6(b)
	}
	return Header{}
}

func parseIPv4(b []byte) Header {
	h := Header{
		Src:      netip.AddrFrom4([4]byte(b[12:16])),
		Dst:      netip.AddrFrom4([4]byte(b[16:20])),
		Protocol: b[9],
		Length:   int(binary.BigEndian.Uint16(b[2:])),
		Fragment: binary.BigEndian.Uint16(b[6:])&0x1fff != 0,
	}
	if size := int(b[0]&0xf) * 4; size >= ipv4Header && size <= len(b) {
		h.transport(b[size:])
	}
	return h
}

func parseIPv6(b []byte) Header {
	h := Header{
		Src:      netip.AddrFrom16([16]byte(b[8:24])),
		Dst:      netip.AddrFrom16([16]byte(b[24:40])),
		Protocol: b[6],
	}
	if payload := int(binary.BigEndian.Uint16(b[4:])); payload != 0 || b[6] == unix.IPPROTO_NONE {
		h.Length = ipv6Header + payload
	}
	b = b[ipv6Header:]
	for range maxExtensions {
		size := 0
		switch h.Protocol {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(b) >= 2 {
				size = 8 + 8*int(b[1])
			}
		case unix.IPPROTO_AH:
			if len(b) >= 2 {
				size = 8 + 4*int(b[1])
			}
		case unix.IPPROTO_FRAGMENT:
			if len(b) >= 8 {
				size = 8
				h.Fragment = binary.BigEndian.Uint16(b[2:])>>3 != 0
			}
		default:
			h.transport(b)
			return h
		}
		if size == 0 {
			return h // cut off before it says what follows
		}
		h.Protocol = b[0]
		if size > len(b) || h.Fragment {
			return h
		}
		b = b[size:]
	}
	return h
}

// transport reads the beginning of what the IP packet carries.
func (h *Header) transport(b []byte) {
	if h.Fragment {
		return
	}
	switch h.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, protocolDCCP, protocolUDPLite:
		if len(b) >= 4 {
			h.SrcPort, h.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(b) >= 2 {
			h.ICMPType, h.ICMPCode = b[0], b[1]
		}
	}
}
