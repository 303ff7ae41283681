package filestore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/ipam"
)

const (
	tableMagic = "twslots1"
	headerSize = 64
	slotSize   = 12

	// maxSlots bounds the part of a range that addresses are picked from (a /12, or the first 2^20 addresses of an IPv6 subnet), and
	// so the size of a table: 12 MiB, sparse until used. An address beyond it can still be requested by name.
	maxSlots = 1 << 20
)

// errInconsistent says that a table contradicts itself and has to be rebuilt.
var errInconsistent = errors.New("slot table is inconsistent")

// table says which address of a range to try next: one that was never leased as long as there is one, then the one that was released
// the longest ago. It is advice; the names in addresses/ decide. Every operation reads and writes a fixed number of bytes.
//
//	header   fresh: slots from here on were never looked at      head, tail: queue of released slots, oldest first
//	slot     prev, next (slot number + 1; 0 is none)             state: fresh, leased, or when it was released
//
// A change is several writes. The header says "dirty" from before the first until after the last, and a table that is found dirty
// was cut short by a kill: it is built anew.
type table struct {
	file
	header
	rng      ipam.Range
	reserved []uint32 // slots of gateways
	identity uint32   // hash of the range and reserved: other contents need another table
	touched  bool     // this session wrote to it
	broken   bool     // leave it dirty
}

type header struct {
	capacity uint32 // slots
	dirty    uint32
	fresh    uint32
	head     uint32 // slot + 1
	tail     uint32 // slot + 1
	leased   uint32 // slots in use
	resting  uint32 // slots in the queue
	checked  uint32 // seconds since boot, when the table was last built
	used     uint32 // slots from here on are fresh
}

type slot struct {
	prev, next uint32 // slot + 1, within the queue
	state      uint32
}

// The states of a slot. stateReleased + n is a slot released n seconds after boot.
const (
	stateFresh    = 0
	stateLeased   = 1
	stateReleased = 2
)

func releasedAt(now time.Duration) uint32 {
	return stateReleased + uint32(min(max(now/time.Second, 0), math.MaxUint32-stateReleased))
}

// newTable opens or creates the file; load or rebuild comes next.
func newTable(path string, rng ipam.Range, cfg ipam.Config) (*table, error) {
	t := describeTable(path, rng, cfg)
	var err error
	t.file, err = open(path, unix.O_RDWR|unix.O_CREAT)
	return t, err
}

// describeTable works out what depends on the configuration alone.
func describeTable(path string, rng ipam.Range, cfg ipam.Config) *table {
	t := &table{file: file{path: path}, rng: rng}
	t.capacity = uint32(min(rng.Size(), maxSlots))
	id := rng.String()
	for _, set := range cfg.Sets {
		for _, r := range set {
			at, ok := rng.Offset(r.Gateway)
			if ok && at < uint64(t.capacity) && !t.isReserved(uint32(at)) {
				t.reserved = append(t.reserved, uint32(at))
				id += " " + r.Gateway.String()
			}
		}
	}
	t.identity = crc32.ChecksumIEEE([]byte(id))
	return t
}

// load reads the header. It returns errInconsistent for one that cannot be trusted; known says whether the slots still can.
func (t *table) load() (known bool, err error) {
	var b [headerSize]byte
	n, err := t.readAt(b[:], 0)
	if err != nil {
		return false, err
	}
	h, ok := decodeHeader(b[:n], t.identity)
	if !ok || h.capacity != t.capacity || h.fresh > h.capacity || h.used > h.capacity || h.head > h.capacity || h.tail > h.capacity {
		return false, errInconsistent
	}
	t.header = h
	id, err := t.file.identity()
	if err != nil {
		return false, err
	}
	if id.size != t.size() {
		return false, errInconsistent
	}
	if h.dirty != 0 {
		return true, errInconsistent
	}
	return true, nil
}

func (t *table) size() int64 { return headerSize + slotSize*int64(t.capacity) }

func (h header) encode(identity uint32) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, tableMagic...)
	for _, v := range []uint32{identity, h.capacity, h.dirty, h.fresh, h.head, h.tail, h.leased, h.resting, h.checked, h.used} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return b[:headerSize]
}

func decodeHeader(b []byte, identity uint32) (header, bool) {
	const sum = len(tableMagic) + 10*4
	if len(b) < headerSize || string(b[:len(tableMagic)]) != tableMagic ||
		binary.LittleEndian.Uint32(b[sum:]) != crc32.ChecksumIEEE(b[:sum]) {
		return header{}, false
	}
	var v [10]uint32
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(b[len(tableMagic)+4*i:])
	}
	return header{v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9]}, v[0] == identity
}

// usable is the number of addresses that can be leased by way of this table.
func (t *table) usable() uint32 { return t.capacity - uint32(len(t.reserved)) }

// next returns the slot to lease next and for how many seconds since boot it has been released (0: never leased before); ok is false
// when the range is exhausted.
func (t *table) next() (at uint32, released uint32, ok bool, err error) {
	var buf [256 * slotSize]byte
	for t.fresh < t.capacity {
		n, err := t.readAt(buf[:], t.offset(t.fresh))
		if err != nil {
			return 0, 0, false, err
		}
		if n < slotSize {
			return 0, 0, false, errInconsistent
		}
		for b := buf[:n]; len(b) >= slotSize && t.fresh < t.capacity; b = b[slotSize:] {
			if decodeSlot(b).state == stateFresh && !t.isReserved(t.fresh) {
				return t.fresh, 0, true, nil
			}
			t.fresh++
		}
	}
	if t.head == 0 {
		return 0, 0, false, nil
	}
	first, err := t.slot(t.head)
	if err != nil {
		return 0, 0, false, err
	}
	if first.state < stateReleased || first.prev != 0 {
		return 0, 0, false, errInconsistent
	}
	return t.head - 1, first.state - stateReleased, true, nil
}

func (t *table) isReserved(at uint32) bool { return slices.Contains(t.reserved, at) }

// takeIP is take by address; one beyond the table's slots needs no mark.
func (t *table) takeIP(ip netip.Addr) error {
	if at, ok := t.rng.Offset(ip); ok && at < uint64(t.capacity) {
		return t.take(uint32(at))
	}
	return nil
}

// putIP is put by address.
func (t *table) putIP(ip netip.Addr, now time.Duration) error {
	if at, ok := t.rng.Offset(ip); ok && at < uint64(t.capacity) {
		return t.put(uint32(at), now)
	}
	return nil
}

// take marks a slot as leased, whatever it was.
func (t *table) take(at uint32) error {
	s, err := t.slot(at + 1)
	if err != nil || s.state == stateLeased {
		return err
	}
	if err := t.touch(); err != nil {
		return err
	}
	t.used = max(t.used, at+1)
	if s.state >= stateReleased {
		if err := t.unqueue(s); err != nil {
			return err
		}
	}
	t.leased++
	return t.writeSlot(at+1, slot{state: stateLeased})
}

// unqueue takes a slot out of the middle of the queue, or of either end.
func (t *table) unqueue(s slot) error {
	if s.prev == 0 {
		t.head = s.next
	} else if err := t.relink(s.prev, func(p *slot) { p.next = s.next }); err != nil {
		return err
	}
	failpoint.Hit("ipam-slots-half-unqueued")
	if s.next == 0 {
		t.tail = s.prev
	} else if err := t.relink(s.next, func(n *slot) { n.prev = s.prev }); err != nil {
		return err
	}
	t.resting--
	return nil
}

// put appends a leased slot to the queue of released ones; a slot that is not leased stays as it is.
func (t *table) put(at uint32, now time.Duration) error {
	s, err := t.slot(at + 1)
	if err != nil || s.state != stateLeased {
		return err
	}
	if err := t.touch(); err != nil {
		return err
	}
	if err := t.writeSlot(at+1, slot{prev: t.tail, state: releasedAt(now)}); err != nil {
		return err
	}
	failpoint.Hit("ipam-slots-half-queued")
	if t.tail == 0 {
		t.head = at + 1
	} else if err := t.relink(t.tail, func(p *slot) { p.next = at + 1 }); err != nil {
		return err
	}
	t.tail = at + 1
	t.resting++
	t.leased--
	return nil
}

func (t *table) relink(number uint32, change func(*slot)) error {
	s, err := t.slot(number)
	if err != nil {
		return err
	}
	if s.state < stateReleased {
		return errInconsistent
	}
	change(&s)
	return t.writeSlot(number, s)
}

// slot reads the slot with the given number, counted from 1.
func (t *table) slot(number uint32) (slot, error) {
	var b [slotSize]byte
	if number == 0 || number > t.capacity {
		return slot{}, errInconsistent
	}
	n, err := t.readAt(b[:], t.offset(number-1))
	if err != nil {
		return slot{}, err
	}
	s := decodeSlot(b[:])
	if n < slotSize || s.prev > t.capacity || s.next > t.capacity {
		return slot{}, errInconsistent
	}
	return s, nil
}

func (t *table) writeSlot(number uint32, s slot) error {
	var b [slotSize]byte
	return t.writeAt(appendSlot(b[:0], s), t.offset(number-1))
}

func (t *table) offset(at uint32) int64 { return headerSize + slotSize*int64(at) }

func decodeSlot(b []byte) slot {
	return slot{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])}
}

func appendSlot(b []byte, s slot) []byte {
	b = binary.LittleEndian.AppendUint32(b, s.prev)
	b = binary.LittleEndian.AppendUint32(b, s.next)
	return binary.LittleEndian.AppendUint32(b, s.state)
}

// touch says on disk that the table is being changed.
func (t *table) touch() error {
	if t.touched {
		return nil
	}
	t.dirty = 1
	if err := t.writeAt(t.header.encode(t.identity), 0); err != nil {
		return err
	}
	t.touched = true
	failpoint.Hit("ipam-slots-dirty")
	return nil
}

// close says on disk that the table is whole, if it is.
func (t *table) close() error {
	defer t.file.close()
	if !t.touched || t.broken {
		return nil
	}
	t.dirty = 0
	return t.writeAt(t.header.encode(t.identity), 0)
}
