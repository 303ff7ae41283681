package dnat

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// maglevSizes are the sizes of lookup tables: primes, so that each endpoint's permutation visits every slot.
var maglevSizes = [...]int{251, 1021, 4093, 16381}

// maglevSize returns the size of the table for n endpoints, when it was old before. A table of another size sends nearly all flows elsewhere, so one
// that was made stays as long as it has 20 slots for each endpoint. A new one has 100, as the paper has it: shares are then within 1% of each
// other, and when one of N endpoints goes, less than 2/N of the slots change, of which 1/N had to (with more than 50 endpoints: 2.5% at most).
func maglevSize(n, old int) int {
	if slices.Contains(maglevSizes[:], old) && old >= 20*n {
		return old
	}
	for _, size := range maglevSizes {
		if size >= 100*n {
			return size
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// maglev fills the lookup table of Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer (NSDI 2016), section 3.4: endpoints take
// turns, and each takes the next free slot of a permutation of its own. When an endpoint goes, its slots are divided among the others, and few
// others change. An endpoint of half the weight takes every other turn. The table is a function of the endpoints and its size alone, whatever
// the order, so that nodes agree. Only the first endpoints by name get slots when there are more of them than the largest table has.
func (a *assigner) maglev(old int) slots {
	slices.SortFunc(a.shares, func(x, y share) int { return strings.Compare(x.endpoint, y.endpoint) })
	size := maglevSize(len(a.shares), old)
	shares := a.shares[:min(len(a.shares), size)]
	heaviest := slices.MaxFunc(shares, func(x, y share) int { return cmp.Compare(x.count, y.count) }).count
	type candidate struct{ next, skip, credit int }
	candidates := make([]candidate, len(shares))
	for i, s := range shares {
		candidates[i] = candidate{int(kernel.StableHash(1, s.endpoint) % uint64(size)), int(kernel.StableHash(2, s.endpoint)%uint64(size-1)) + 1, heaviest - s.count}
	}
	table := make([]int32, size) // share + 1
	for filled := 0; filled < size; {
		for i := range candidates {
			c := &candidates[i]
			if c.credit += shares[i].count; c.credit < heaviest || filled == size {
				continue
			}
			c.credit -= heaviest
			for table[c.next] != 0 {
				c.next = (c.next + c.skip) % size
			}
			table[c.next] = int32(i) + 1
			filled++
		}
	}
	a.text = a.text[:0]
	for _, i := range table {
		a.text = append(a.text, shares[i-1].endpoint...)
	}
	return slots(a.text)
}
