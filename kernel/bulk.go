package kernel

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"
)

// Entry is an element of a Bulk set in the form in which nf_tables keeps it: the parts of key and value one after the other, as the Append
// functions make them. A key or value of a single part has no padding (see Set), which the Append functions add: Bulk sets are for
// concatenations, and for single parts of 4 bytes or multiples.
type Entry struct{ Key, Value string }

// SetChange says what becomes different in a Bulk set. Removals come first: an element whose value changes is removed and added.
type SetChange struct {
	Set    string
	Remove []string // keys
	Add    []Entry
}

// BulkTables is the handle on tables with Bulk sets; nft.Handle is the real one.
type BulkTables interface {
	Tables

	// ChangeElements makes all the changes in one transaction, or none. The error is ENOENT when a key to remove, a set or the table is
	// not there, and EEXIST when a map has a key to add with another value: somebody else changed the table, and what it holds has to
	// be listed. ENOENT is also the answer for a set that SyncTables of this handle has made, at first or anew, until Entries has listed it.
	// Large changes are the caller's to split: until the end of a transaction the kernel holds some 8 KiB for each of its elements, in
	// notifications to whoever listens in any network namespace. Pieces of 1,000 to 2,000 elements take the least time, and let others
	// in between: nf_tables works on one transaction at a time in a network namespace.
	ChangeElements(ctx context.Context, family TableFamily, table string, changes []SetChange) error

	// Entries calls each with all elements of a set, in no order; a table or set that is not there is one without elements. A listing that was disturbed
	// is repeated: reset is called before each, and what was told before counts no more.
	Entries(ctx context.Context, set SetID, reset func(), each func(Entry)) error
}

// EntryState is an entry with what the kernel notes about it.
type EntryState struct {
	Entry
	Expires        time.Duration // of a set with Timeout: the time that is left; 0 for an element that stays
	Packets, Bytes uint64        // of a Counted set: what looked it up
}

// SetID names a set.
type SetID struct {
	Family TableFamily
	Table  string
	Set    string
}

// AppendAddr appends an address to a key or value: TypeIPv4Addr or TypeIPv6Addr, by what it is.
func AppendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	sixteen := a.As16()
	return append(b, sixteen[:]...)
}

// AppendProto appends a TypeInetProto.
func AppendProto(b []byte, proto uint8) []byte { return append(b, proto, 0, 0, 0) }

// AppendPort appends a TypeInetService.
func AppendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// AppendNumber appends a TypeMark, a TypePriority or a TypeNumber.
func AppendNumber(b []byte, n uint32) []byte { return binary.NativeEndian.AppendUint32(b, n) }

// CutAddr takes an address of the given family off the front of a key or value. What is too short yields the zero Addr.
func CutAddr(s string, v6 bool) (netip.Addr, string) {
	size := 4
	if v6 {
		size = 16
	}
	if len(s) < size {
		return netip.Addr{}, ""
	}
	a, _ := netip.AddrFromSlice([]byte(s[:size]))
	return a, s[size:]
}

// CutProto takes a TypeInetProto off the front.
func CutProto(s string) (uint8, string) {
	if len(s) < 4 {
		return 0, ""
	}
	return s[0], s[4:]
}

// CutPort takes a TypeInetService off the front.
func CutPort(s string) (uint16, string) {
	if len(s) < 4 {
		return 0, ""
	}
	return uint16(s[0])<<8 | uint16(s[1]), s[4:]
}

// CutNumber takes a TypeMark, TypePriority or TypeNumber off the front.
func CutNumber(s string) (uint32, string) {
	if len(s) < 4 {
		return 0, ""
	}
	return binary.NativeEndian.Uint32([]byte(s[:4])), s[4:]
}
