package nflog

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// ip4 returns an IPv4 packet from 10.5.1.7 to 10.5.2.9; options are multiples of 4 bytes.
func ip4(protocol uint8, fragment uint16, options, payload string) string {
	b := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(payload)))
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = append(b, 64, protocol, 0, 0, 10, 5, 1, 7, 10, 5, 2, 9)
	return string(b) + options + payload
}

// ip6 returns an IPv6 packet from fd00:5::7 to fd00:5::9.
func ip6(next uint8, payload string) string {
	b := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	b = append(b, next, 64)
	b = append(b, netip.MustParseAddr("fd00:5::7").AsSlice()...)
	b = append(b, netip.MustParseAddr("fd00:5::9").AsSlice()...)
	return string(b) + payload
}

// extension is a header of 8 bytes and more, as most are.
func extension(next uint8, more int) string {
	return string([]byte{next, byte(more / 8)}) + strings.Repeat("\x00", 6+more)
}

const (
	ports = "\x9c\x40\x00\x50rest of the header" // 40000, 80
	echo  = "\x80\x01\x00\x00"
)

type headerTest struct {
	name, packet string
	cut          int // bytes that are there, when not all
	want         Header
}

func (h headerTest) bytes() []byte {
	if h.cut > 0 {
		return []byte(h.packet[:h.cut])
	}
	return []byte(h.packet)
}

var headers = func() []headerTest {
	four := func(h Header) Header {
		h.Src, h.Dst = netip.MustParseAddr("10.5.1.7"), netip.MustParseAddr("10.5.2.9")
		return h
	}
	six := func(h Header) Header {
		h.Src, h.Dst = netip.MustParseAddr("fd00:5::7"), netip.MustParseAddr("fd00:5::9")
		return h
	}
	with := func(protocol uint8, length int) Header {
		return Header{Protocol: protocol, Length: length, SrcPort: 40000, DstPort: 80}
	}
	const n = len(ports)
	const hop, routing, fragment, auth, options = unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_AH, unix.IPPROTO_DSTOPTS
	piece := func(offset uint16) string {
		return string(binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_UDP, 0}, offset<<3|1)) + "\x00\x00\x00\x07"
	}
	return []headerTest{
		{"nothing", "", 0, Header{}},
		{"no IP", "\x12\x34" + ip4(6, 0, "", ports), 0, Header{}},
		{"TCP", ip4(6, 0, "", ports), 0, four(with(6, 20+n))},
		{"UDP behind options", ip4(17, 0, "12345678", ports), 0, four(with(17, 28+n))},
		{"SCTP", ip4(132, 0, "", ports), 0, four(with(132, 20+n))},
		{"ICMP", ip4(1, 0, "", echo), 0, four(Header{Protocol: 1, ICMPType: 128, ICMPCode: 1, Length: 24})},
		{"another protocol", ip4(47, 0, "", ports), 0, four(Header{Protocol: 47, Length: 20 + n})},
		{"do not fragment", ip4(6, 0x4000, "", ports), 0, four(with(6, 20+n))},
		{"first fragment", ip4(17, 0x2000, "", ports), 0, four(with(17, 20+n))},
		{"later fragment", ip4(17, 0x2001, "", ports), 0, four(Header{Protocol: 17, Length: 20 + n, Fragment: true})},
		{"cut within ports", ip4(6, 0, "", ports), 23, four(Header{Protocol: 6, Length: 20 + n})},
		{"cut behind ports", ip4(6, 0, "", ports), 24, four(with(6, 20+n))},
		{"cut within options", ip4(6, 0, "1234", ports), 22, four(Header{Protocol: 6, Length: 24 + n})},
		{"cut within addresses", ip4(6, 0, "", ports), 19, Header{}},
		{"header of no length", "\x40" + ip4(6, 0, "", ports)[1:], 0, four(Header{Protocol: 6, Length: 20 + n})},
		{"TCP, IPv6", ip6(6, ports), 0, six(with(6, 40+n))},
		{"ICMPv6", ip6(58, echo), 0, six(Header{Protocol: 58, ICMPType: 128, ICMPCode: 1, Length: 44})},
		{"nothing behind the header", ip6(59, ""), 0, six(Header{Protocol: 59, Length: 40})},
		{"jumbogram", ip6(0, "")[:40] + extension(6, 0) + ports, 0, six(Header{Protocol: 6, SrcPort: 40000, DstPort: 80})},
		{"all extensions", ip6(hop, extension(options, 8)+extension(routing, 16)+extension(auth, 0)+string([]byte{options, 2})+strings.Repeat("\x00", 14)+extension(17, 0)+ports), 0,
			six(with(17, 40+16+24+8+16+8+n))},
		{"first fragment, IPv6", ip6(fragment, piece(0)+ports), 0, six(with(17, 48+n))},
		{"later fragment, IPv6", ip6(fragment, piece(1)+ports), 0, six(Header{Protocol: 17, Length: 48 + n, Fragment: true})},
		{"cut within an extension", ip6(hop, extension(6, 8)+ports), 50, six(Header{Protocol: 6, Length: 56 + n})},
		{"cut before an extension", ip6(hop, extension(6, 8)+ports), 41, six(Header{Protocol: hop, Length: 56 + n})},
		{"cut within a fragment header", ip6(fragment, piece(1)+ports), 47, six(Header{Protocol: fragment, Length: 48 + n})},
		{"cut within addresses, IPv6", ip6(6, ports), 39, Header{}},
		{"extensions without end", ip6(hop, strings.Repeat(extension(hop, 0), 100)), 0, six(Header{Protocol: hop, Length: 840})},
		{"encrypted", ip6(50, ports), 0, six(Header{Protocol: 50, Length: 40 + n})},
	}
}()

func TestParse(t *testing.T) {
	for _, tt := range headers {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parse(tt.bytes()), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzParse cuts packets off everywhere: what remains never says anything else than the whole.
func FuzzParse(f *testing.F) {
	for _, tt := range headers {
		f.Add(tt.bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := parse(b)
		if whole.Src.IsValid() != whole.Dst.IsValid() || whole.Fragment && (whole.SrcPort != 0 || whole.DstPort != 0 || whole.ICMPType != 0) {
			t.Errorf("%v of %x", whole, b)
		}
		for cut := range min(len(b), 100) {
			part := parse(b[:cut])
			if part.Src.IsValid() && part.Src != whole.Src || part.DstPort != 0 && part.DstPort != whole.DstPort || part.ICMPType != 0 && part.ICMPType != whole.ICMPType {
				t.Errorf("%v of the first %d bytes of %x, which are %v", part, cut, b, whole)
			}
		}
	})
}
