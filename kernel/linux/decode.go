//go:build linux

package linux

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// errMalformed says that a message of the kernel does not have the form that include/uapi/linux promises.
var errMalformed = errors.New("malformed netlink message")

// message is one netlink message. Its payload is valid until the socket is read again.
type message struct {
	msgType uint16
	flags   uint16
	seq     uint32
	port    uint32
	payload []byte
}

// nextMessage splits the first message off buf.
func nextMessage(buf []byte) (m message, rest []byte, err error) {
	if len(buf) < unix.NLMSG_HDRLEN {
		return m, nil, errMalformed
	}
	length := binary.NativeEndian.Uint32(buf)
	if length < unix.NLMSG_HDRLEN || uint64(length) > uint64(len(buf)) {
		return m, nil, errMalformed
	}
	m.msgType = binary.NativeEndian.Uint16(buf[4:])
	m.flags = binary.NativeEndian.Uint16(buf[6:])
	m.seq = binary.NativeEndian.Uint32(buf[8:])
	m.port = binary.NativeEndian.Uint32(buf[12:])
	m.payload = buf[unix.NLMSG_HDRLEN:length]
	return m, buf[min(align4(int(length)), len(buf)):], nil
}

// attribute is one netlink attribute (struct nlattr) without its flags.
type attribute struct {
	attrType uint16
	value    []byte
}

// nextAttr splits the first attribute off buf.
func nextAttr(buf []byte) (a attribute, rest []byte, err error) {
	if len(buf) < unix.SizeofRtAttr {
		return a, nil, errMalformed
	}
	length := int(binary.NativeEndian.Uint16(buf))
	if length < unix.SizeofRtAttr || length > len(buf) {
		return a, nil, errMalformed
	}
	a.attrType = binary.NativeEndian.Uint16(buf[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	a.value = buf[unix.SizeofRtAttr:length]
	return a, buf[min(align4(length), len(buf)):], nil
}

func (a attribute) u32() (uint32, bool) {
	if len(a.value) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(a.value), true
}

// addr reads an address of 4 or 16 bytes.
func (a attribute) addr() (netip.Addr, bool) { return netip.AddrFromSlice(a.value) }

func (a attribute) mac() (kernel.MAC, bool) {
	if len(a.value) != len(kernel.MAC{}) {
		return kernel.MAC{}, false
	}
	return kernel.MAC(a.value), true
}

// text reads a string that may end with a zero byte.
func (a attribute) text() string { return unix.ByteSliceToString(a.value) }

func align4(n int) int { return (n + 3) &^ 3 }
