package dnat

import (
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

// Listing is what the Bulk sets hold in the kernel.
type Listing struct{ kernel.Listing }

// take returns an entry and forgets it.
func (l *Listing) take(set string, key []byte) (value string, ok bool) {
	if value, ok = l.Sets[set][string(key)]; ok {
		delete(l.Sets[set], string(key))
	}
	return value, ok
}

// slots returns what a frontend's slots are in the kernel: as far as they are there without a gap.
func (l *Listing) slots(k service.FrontendKey, inside bool) slots {
	key := kernel.AppendPort(kernel.AppendProto(kernel.AppendAddr(nil, k.Addr), uint8(k.Protocol)), k.Port)
	plain, numbers, byNumber := l.Sets[setEndpoints], l.Sets[setSlots], l.Sets[setMembers]
	w := width(k.Addr.Is6())
	var out []byte
	for i := range insideOffset {
		slot := kernel.AppendNumber(key, slotNumber(i, inside))
		value, ok := plain[string(slot)]
		if !ok {
			number := numbers[string(slot)]
			value = byNumber[string(append(slot[:len(key)], number...))]
		}
		if len(value) != w {
			break
		}
		out = append(out, value...)
	}
	return slots(out)
}

// rest removes all that was not taken.
func (l *Listing) rest(e *edit) {
	for i, set := range bulkSets {
		for key := range l.Sets[set] {
			e.sets[i].Remove = append(e.sets[i].Remove, key)
		}
	}
}
