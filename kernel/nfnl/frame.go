package nfnl

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Header is the part of struct nlmsghdr that a receiver needs.
type Header struct {
	Type  uint16
	Flags uint16
	Seq   uint32
}

// messages walks the netlink messages in one datagram. It stops at a message whose length is wrong; one that was cut off
// (an error that repeats a large request) is given as far as it goes.
func messages(b []byte) iter.Seq2[Header, []byte] {
	return func(yield func(Header, []byte) bool) {
		for len(b) >= headerSize {
			size := int(binary.NativeEndian.Uint32(b))
			if size < headerSize {
				return
			}
			h := Header{
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
			}
			if !yield(h, b[headerSize:min(size, len(b))]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// errorOf reads the errno of an NLMSG_ERROR or NLMSG_DONE; 0 is an acknowledgement.
func errorOf(payload []byte) unix.Errno {
	if len(payload) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(payload)))
}
