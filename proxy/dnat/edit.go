package dnat

import (
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// bulkSets are the names of the Bulk sets. What leads to others comes after them.
var bulkSets = [...]string{setEndpoints, setSlots, setMembers, setHairpin, setClusterIPs, setServices, setInside}

// BulkSets are the names of the sets that hold what Set, Reset and Compare return.
func BulkSets() []string { return slices.Clone(bulkSets[:]) }

// An index into bulkSets.
const (
	endpoints = iota
	slotNumbers
	memberEndpoints
	hairpins
	clusterIPs
	serviceNumbers
	insideNumbers
)

// edit collects changes of the Bulk sets. Keys and values are cut out of large strings, so that an entry costs no allocation of its own.
type edit struct {
	v6      bool
	sets    [len(bulkSets)]kernel.SetChange
	text    strings.Builder
	key     []byte   // of the frontend or address at hand
	listing *Listing // when it is there, entries that it has are no change, and are taken out of it
}

// The strings that entries are cut out of grow from the one size to the other, in bytes: a small change costs little. A part that is in use keeps all
// of its string in memory, which lasts as long as the changes do.
const smallest, largest = 1 << 10, 1 << 16

// intern returns a string that shares its memory with others.
func (e *edit) intern(b []byte) string {
	if e.text.Cap()-e.text.Len() < len(b) {
		size := min(max(2*e.text.Cap(), smallest), largest)
		e.text = strings.Builder{}
		e.text.Grow(size)
	}
	start := e.text.Len()
	e.text.Write(b)
	return e.text.String()[start:]
}

func (e *edit) add(set int, key []byte, value string) {
	s := &e.sets[set]
	if e.listing != nil {
		have, ok := e.listing.take(bulkSets[set], key)
		switch {
		case ok && have == value:
			return
		case ok:
			s.Remove = append(s.Remove, e.intern(key))
		}
	}
	s.Add = append(s.Add, kernel.Entry{Key: e.intern(key), Value: value})
}

func (e *edit) remove(set int, key []byte) {
	e.sets[set].Remove = append(e.sets[set].Remove, e.intern(key))
}

// replace turns an entry's value into another; an empty one is none.
func (e *edit) replace(set int, key []byte, old, now string) {
	if old == now {
		return
	}
	if old != "" {
		e.remove(set, key)
	}
	if now != "" {
		e.add(set, key, now)
	}
}

// frontend turns what the kernel has for a frontend into something else. Either can be nil: there is nothing.
func (e *edit) frontend(old, now *frontend) {
	var none frontend
	at := now
	if old == nil {
		old = &none
	}
	if now == nil {
		now, at = &none, old
	}
	if *old == *now {
		return
	}
	e.key = kernel.AppendAddr(slices.Grow(e.key[:0], 64), at.key.Addr) // room for a number, so that numbered need not copy
	e.key = kernel.AppendPort(kernel.AppendProto(e.key, uint8(at.key.Protocol)), at.key.Port)
	e.slots(old, now, false)
	e.slots(old, now, true)
	e.replace(serviceNumbers, e.key, old.plan.text(), now.plan.text())
	e.replace(insideNumbers, e.key, old.inside.text(), now.inside.text())
}

// slots writes the difference between the slots of two frontends with the same key.
func (e *edit) slots(old, now *frontend, inside bool) {
	oldSlots, oldSticky := old.side(inside)
	nowSlots, nowSticky := now.side(inside)
	if oldSlots == nowSlots && oldSticky == nowSticky {
		return
	}
	var oldMembers, nowMembers []member
	if oldSticky {
		oldMembers = members(oldSlots, e.v6, inside)
	}
	if nowSticky {
		nowMembers = members(nowSlots, e.v6, inside)
	}
	e.plain(unless(oldSticky, oldSlots), unless(nowSticky, nowSlots), inside)
	if oldSticky || nowSticky {
		e.numbers(numbersOf(unless(!oldSticky, oldSlots), oldMembers, e.v6), numbersOf(unless(!nowSticky, nowSlots), nowMembers, e.v6), inside)
		e.members(oldMembers, nowMembers)
	}
}

func unless(not bool, s slots) slots {
	if not {
		return ""
	}
	return s
}

// numbered returns the frontend's key with a number behind it. The next call overwrites it.
func (e *edit) numbered(n uint32) []byte { return kernel.AppendNumber(e.key, n) }

// slotNumber returns the number that stands for a slot in the kernel: nft writes it as 8000:<slot>, or inside of the cluster as 8001:<slot>.
func slotNumber(i int, inside bool) uint32 {
	if inside {
		i += insideOffset
	}
	return scratchBit | uint32(i)
}

// plain compares slots that lead to endpoints.
func (e *edit) plain(old, now slots, inside bool) {
	w := width(e.v6)
	cut := func(s slots, i int) string {
		if i*w >= len(s) {
			return ""
		}
		return string(s[i*w : i*w+w])
	}
	for i := range max(len(old), len(now)) / w {
		if was, is := cut(old, i), cut(now, i); was != is {
			e.replace(endpoints, e.numbered(slotNumber(i, inside)), was, is)
		}
	}
}

// numbers compares slots that lead to members.
func (e *edit) numbers(old, now []uint32, inside bool) {
	text := func(numbers []uint32, i int) string {
		if i >= len(numbers) {
			return ""
		}
		return e.intern(kernel.AppendNumber(nil, numbers[i]))
	}
	for i := range max(len(old), len(now)) {
		if i < len(old) && i < len(now) && old[i] == now[i] {
			continue
		}
		e.replace(slotNumbers, e.numbered(slotNumber(i, inside)), text(old, i), text(now, i))
	}
}

// members compares two lists that are sorted by number.
func (e *edit) members(old, now []member) {
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].number < now[0].number:
			e.remove(memberEndpoints, e.numbered(old[0].number))
			old = old[1:]
		case len(old) == 0 || now[0].number < old[0].number:
			e.add(memberEndpoints, e.numbered(now[0].number), now[0].endpoint)
			now = now[1:]
		default:
			e.replace(memberEndpoints, e.numbered(now[0].number), old[0].endpoint, now[0].endpoint)
			old, now = old[1:], now[1:]
		}
	}
}

// changes returns what was collected.
func (e *edit) changes() []kernel.SetChange {
	var out []kernel.SetChange
	for i, s := range e.sets {
		if s.Set = bulkSets[i]; len(s.Remove)+len(s.Add) > 0 {
			out = append(out, s)
		}
	}
	return out
}
