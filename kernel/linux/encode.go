//go:build linux

package linux

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// encoder appends netlink messages to a buffer. It allocates nothing once the buffer has grown. Every message starts and
// ends on a multiple of 4 bytes (NLMSG_ALIGNTO, NLA_ALIGNTO).
type encoder struct {
	buf   []byte
	start int // offset of the message under construction
}

// begin starts a message. NLM_F_REQUEST is always set.
func (e *encoder) begin(msgType, flags uint16, seq uint32) {
	e.start = len(e.buf)
	e.u32(0) // length, known at end
	e.u16(msgType)
	e.u16(flags | unix.NLM_F_REQUEST)
	e.u32(seq)
	e.u32(0) // port: the kernel knows the sender
}

// end completes the message that begin started.
func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start))
}

func (e *encoder) bytes(b ...byte) { e.buf = append(e.buf, b...) }
func (e *encoder) u16(v uint16)    { e.buf = binary.NativeEndian.AppendUint16(e.buf, v) }
func (e *encoder) u32(v uint32)    { e.buf = binary.NativeEndian.AppendUint32(e.buf, v) }

// nest starts an attribute that holds what is appended until endNest is called with what nest returned.
func (e *encoder) nest(attrType uint16) int {
	at := len(e.buf)
	e.u16(0)
	e.u16(attrType)
	return at
}

func (e *encoder) endNest(at int) {
	binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at))
	for len(e.buf)%unix.NLA_ALIGNTO != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) attr(attrType uint16, value []byte) {
	at := e.nest(attrType)
	e.buf = append(e.buf, value...)
	e.endNest(at)
}

func (e *encoder) attrU32(attrType uint16, v uint32) {
	e.u16(unix.SizeofRtAttr + 4)
	e.u16(attrType)
	e.u32(v)
}

// attrAddr appends an address attribute of 4 or 16 bytes.
func (e *encoder) attrAddr(attrType uint16, a netip.Addr) {
	at := e.nest(attrType)
	e.addr(a)
	e.endNest(at)
}

func (e *encoder) addr(a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.buf = append(e.buf, b[:]...)
		return
	}
	b := a.As16()
	e.buf = append(e.buf, b[:]...)
}

// family returns the AF_ number of an address.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
