package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// dataType is how nft and the kernel know a type.
type dataType struct {
	number uint32 // nft's enum datatypes (include/datatype.h), stored with a set so that nft can print its elements
	size   int    // bytes
	host   bool   // in host byte order
}

var types = [...]dataType{
	kernel.TypeVerdict:     {number: 1},
	kernel.TypeIPv4Addr:    {number: 7, size: 4},
	kernel.TypeIPv6Addr:    {number: 8, size: 16},
	kernel.TypeInetProto:   {number: 12, size: 1},
	kernel.TypeInetService: {number: 13, size: 2},
	kernel.TypeMark:        {number: 19, size: 4, host: true},
	kernel.TypePriority:    {number: 23, size: 4, host: true},
	kernel.TypeNumber:      {number: 4, size: 4, host: true},
	kernel.TypeIfname:      {number: 41, size: unix.IFNAMSIZ, host: true},
}

// concatenation returns nft's number for the concatenation of types and its length in bytes: each part is padded to the
// kernel's registers of 4 bytes, a single type is not.
func concatenation(parts []kernel.Type) (number, size uint32) {
	if len(parts) == 1 {
		return types[parts[0]].number, uint32(types[parts[0]].size)
	}
	for _, t := range parts {
		number = number<<6 | types[t].number
		size += uint32(padded(types[t].size))
	}
	return number, size
}

func padded(size int) int { return (size + 3) &^ 3 }

// byteOrder is what nft notes about a set, to know how its integers are to be printed.
func byteOrder(parts []kernel.Type, interval bool) uint32 {
	if len(parts) == 1 && types[parts[0]].host && !interval {
		return byteOrderHost
	}
	return byteOrderBig
}

// encodeData encodes one datum for each type and pads the parts of a concatenation. A prefix yields the first and the last address
// of it in from and to; for all other data the two are the same.
func encodeData(parts []kernel.Type, data []kernel.Datum) (from, to string, err error) {
	if len(parts) != len(data) {
		return "", "", fmt.Errorf("want %d parts, have %d", len(parts), len(data))
	}
	for i, t := range parts {
		first, last, err := encodeDatum(t, data[i])
		if err != nil {
			return "", "", err
		}
		if len(parts) > 1 {
			pad := string(make([]byte, padded(len(first))-len(first)))
			first, last = first+pad, last+pad
		}
		from, to = from+first, to+last
	}
	return from, to, nil
}

func encodeDatum(t kernel.Type, d kernel.Datum) (from, to string, err error) {
	switch t {
	case kernel.TypeIPv4Addr, kernel.TypeIPv6Addr:
		return encodeAddr(d, types[t].size)
	case kernel.TypeInetProto, kernel.TypeInetService, kernel.TypeMark, kernel.TypePriority, kernel.TypeNumber:
		from, err = encodeNumber(d.Number, types[t].size, types[t].host)
	case kernel.TypeIfname:
		from, err = encodeIfname(d.Name)
	default:
		err = fmt.Errorf("type %d cannot be part of a key or of a concatenation", t)
	}
	return from, from, err
}

func encodeAddr(d kernel.Datum, size int) (from, to string, err error) {
	prefix := d.Prefix
	if !prefix.IsValid() {
		prefix = netip.PrefixFrom(d.Addr, d.Addr.BitLen())
	}
	addr := prefix.Masked().Addr()
	if !prefix.IsValid() || addr.BitLen() != size*8 || d.Addr.Zone() != "" {
		return "", "", fmt.Errorf("want an address of %d bits, have %q", size*8, d.Addr)
	}
	b := addr.AsSlice()
	from = string(b)
	for bit := prefix.Bits(); bit < addr.BitLen(); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return from, string(b), nil
}

func encodeNumber(n uint32, size int, host bool) (string, error) {
	if size < 4 && n>>(8*size) != 0 {
		return "", fmt.Errorf("number %d does not fit %d bytes", n, size)
	}
	if host {
		return nativeUint32(n), nil
	}
	return string(binary.BigEndian.AppendUint32(nil, n)[4-size:]), nil
}

func encodeIfname(name string) (string, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return "", errors.New("want an interface name of 1 to 15 bytes, have " + fmt.Sprintf("%q", name))
	}
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return string(b[:]), nil
}

// networkOrder turns the numbers of an interval set's key from the host's byte order into the network's, or back: the kernel compares the ends of a
// range byte by byte. A rule that looks up does the same (ruleEncoder.lookup).
func networkOrder(parts []kernel.Type, key string) string {
	b := []byte(key)
	at := 0
	for _, t := range parts {
		size := padded(types[t].size)
		if types[t].host && size == 4 && at+size <= len(b) {
			binary.BigEndian.PutUint32(b[at:], binary.NativeEndian.Uint32(b[at:]))
		}
		at += size
	}
	return string(b)
}

// encodeKey encodes a key as encodeData does, for the set that it is of.
func encodeKey(s kernel.Set, key []kernel.Datum) (from, to string, err error) {
	from, to, err = encodeData(s.Key, key)
	if err == nil && s.Interval {
		from, to = networkOrder(s.Key, from), networkOrder(s.Key, to)
	}
	return from, to, err
}

// decodeKey is the inverse of encodeKey for keys without prefixes.
func decodeKey(s kernel.Set, key string) ([]kernel.Datum, error) {
	if s.Interval {
		key = networkOrder(s.Key, key)
	}
	return decodeData(s.Key, key)
}

// decodeData is the inverse of encodeData for keys and values without prefixes.
func decodeData(parts []kernel.Type, s string) ([]kernel.Datum, error) {
	data := make([]kernel.Datum, len(parts))
	for i, t := range parts {
		size := types[t].size
		width := size
		if len(parts) > 1 {
			width = padded(size)
		}
		if len(s) < width {
			return nil, fmt.Errorf("have %d bytes for part %d, want %d", len(s), i+1, width)
		}
		data[i] = decodeDatum(t, []byte(s[:size]))
		s = s[width:]
	}
	return data, nil
}

func decodeDatum(t kernel.Type, b []byte) kernel.Datum {
	switch t {
	case kernel.TypeIPv4Addr, kernel.TypeIPv6Addr:
		addr, _ := netip.AddrFromSlice(b)
		return kernel.Datum{Addr: addr}
	case kernel.TypeIfname:
		return kernel.Datum{Name: unix.ByteSliceToString(b)}
	}
	if types[t].host {
		return kernel.Datum{Number: binary.NativeEndian.Uint32(b)}
	}
	var n uint32
	for _, c := range b {
		n = n<<8 | uint32(c)
	}
	return kernel.Datum{Number: n}
}

func nativeUint32(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }
