package nfnl

import (
	"encoding/binary"
	"errors"
	"iter"
)

// ErrMalformed says that a netlink attribute's length is wrong.
var ErrMalformed = errors.New("malformed netlink attribute")

const (
	attrHeader = 4      // struct nlattr
	attrNested = 0x8000 // NLA_F_NESTED
	typeMask   = 0x3fff // NLA_TYPE_MASK
)

// Attrs is a growing list of netlink attributes. Netfilter's numbers are big-endian (include/uapi/linux/netfilter).
type Attrs []byte

// Bytes appends value as it is. Its length must be under 64 KiB less the header.
func (a *Attrs) Bytes(typ uint16, value []byte) {
	b := binary.NativeEndian.AppendUint16(*a, uint16(attrHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	*a = append(b, make([]byte, -len(b)&3)...)
}

// String appends s and the NUL byte that the kernel's NLA_STRING readers expect.
func (a *Attrs) String(typ uint16, s string) {
	b := binary.NativeEndian.AppendUint16(*a, uint16(attrHeader+len(s)+1))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(append(b, s...), 0)
	*a = append(b, make([]byte, -len(b)&3)...)
}

// Uint16 appends v in network byte order.
func (a *Attrs) Uint16(typ uint16, v uint16) { a.Bytes(typ, binary.BigEndian.AppendUint16(nil, v)) }

// Uint32 appends v in network byte order.
func (a *Attrs) Uint32(typ uint16, v uint32) { a.Bytes(typ, binary.BigEndian.AppendUint32(nil, v)) }

// Nest appends an attribute that holds what fill adds.
func (a *Attrs) Nest(typ uint16, fill func(*Attrs)) {
	start := len(*a)
	*a = binary.NativeEndian.AppendUint16(*a, 0)
	*a = binary.NativeEndian.AppendUint16(*a, typ|attrNested)
	fill(a)
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
}

// Each walks the attributes in b. The value aliases b. A malformed attribute ends the walk with a non-nil error.
func Each(b []byte) iter.Seq2[Attr, error] {
	return func(yield func(Attr, error) bool) {
		for len(b) > 0 {
			if len(b) < attrHeader {
				yield(Attr{}, ErrMalformed)
				return
			}
			size := int(binary.NativeEndian.Uint16(b))
			if size < attrHeader || size > len(b) {
				yield(Attr{}, ErrMalformed)
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) & typeMask
			if !yield(Attr{typ, b[attrHeader:size]}, nil) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// Parse reads attributes that occur at most once each; of one that is repeated the last counts.
func Parse(b []byte) (map[uint16]Attr, error) {
	attrs := make(map[uint16]Attr)
	for a, err := range Each(b) {
		if err != nil {
			return nil, err
		}
		attrs[a.Type] = a
	}
	return attrs, nil
}

// Attr is one attribute that was received. The zero Attr reads as zero, empty and no children.
type Attr struct {
	Type  uint16
	Value []byte
}

// Uint32 returns the value in network byte order, or 0 when it has another size.
func (a Attr) Uint32() uint32 {
	if len(a.Value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.Value)
}

// String returns the value without the NUL byte that ends it.
func (a Attr) String() string {
	n := len(a.Value)
	if n > 0 && a.Value[n-1] == 0 {
		n--
	}
	return string(a.Value[:n])
}
