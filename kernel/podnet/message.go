//go:build linux

package podnet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// batch is a run of rtnetlink requests that are sent in one system call. The kernel handles them in order and goes on past
// errors, so a request may only rely on an earlier one of the batch if it fails by itself when that one did.
type batch struct {
	buf  []byte
	msgs []message
	nest []int // offsets of open nested attributes
}

type message struct {
	start int
	what  string // "add address 10.5.1.1/24 to cni0", for errors
	may   unix.Errno
}

// add starts a message; body is the family's fixed header. Attributes follow by attr and open.
func (b *batch) add(what string, typ, flags uint16, body []byte) {
	b.end()
	b.msgs = append(b.msgs, message{start: len(b.buf), what: what})
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // length: set by end
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // sequence: set by socket.send
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = append(b.buf, body...)
}

// allow makes the last message succeed when the kernel answers errno.
func (b *batch) allow(errno unix.Errno) { b.msgs[len(b.msgs)-1].may = errno }

// end writes the length of the last message. It may be called again.
func (b *batch) end() {
	if len(b.msgs) == 0 {
		return
	}
	start := b.msgs[len(b.msgs)-1].start
	binary.NativeEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
}

func (b *batch) attr(typ uint16, data []byte) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(data)))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, data...)
	b.buf = append(b.buf, make([]byte, -len(b.buf)&3)...)
}

func (b *batch) u32(typ uint16, v uint32) { b.attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }

func (b *batch) str(typ uint16, s string) { b.attr(typ, append([]byte(s), 0)) }

func (b *batch) addr(typ uint16, a netip.Addr) { b.attr(typ, a.AsSlice()) }

// open starts a nested attribute, which close ends. Kernels before 5.2 do not know the flag NLA_F_NESTED and
// rtnetlink does not ask for it, so it is not set.
func (b *batch) open(typ uint16) {
	b.nest = append(b.nest, len(b.buf))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
}

func (b *batch) close() {
	at := b.nest[len(b.nest)-1]
	b.nest = b.nest[:len(b.nest)-1]
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

// ifinfo is a struct ifinfomsg.
func ifinfo(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// ifaddr is a struct ifaddrmsg.
func ifaddr(p netip.Prefix, index int) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// received is a message from the kernel.
type received struct {
	typ, flags uint16
	seq        uint32 // of the request that it answers; 0 for a notification
	body       []byte
}

// cut takes the first message off data, which holds at least a header; ok is false when the message is malformed.
func cut(data []byte) (m received, rest []byte, ok bool) {
	size := int(binary.NativeEndian.Uint32(data))
	if size < unix.NLMSG_HDRLEN || size > len(data) {
		return received{}, nil, false
	}
	m = received{typ: binary.NativeEndian.Uint16(data[4:]), flags: binary.NativeEndian.Uint16(data[6:]),
		seq: binary.NativeEndian.Uint32(data[8:]), body: data[unix.NLMSG_HDRLEN:size]}
	return m, data[min((size+3)&^3, len(data)):], true
}

// attrs calls f with each attribute in data. It stops at the first that is malformed, which the kernel does not send.
func attrs(data []byte, f func(typ uint16, value []byte)) {
	for len(data) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(data))
		if n < unix.SizeofRtAttr || n > len(data) {
			return
		}
		f(binary.NativeEndian.Uint16(data[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.SizeofRtAttr:n])
		data = data[min((n+3)&^3, len(data)):]
	}
}

// number reads a 32-bit attribute; one that is shorter is 0.
func number(v []byte) int {
	if len(v) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(v))
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
