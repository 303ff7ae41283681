package dnat

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// A member's number stands for an endpoint in the map of affinity. It is made from the endpoint alone, so that what clients are sent to does not
// change when other endpoints come and go, and an entry for an endpoint that is gone leads nowhere.
const (
	insideBit = 1 << 30 // is set in the numbers for clients inside of the cluster
	numberMax = insideBit - 1
)

// member is an endpoint with its number.
type member struct {
	number   uint32
	endpoint string
}

// members returns the different endpoints, in order of their numbers. When two hash alike, which happens to one frontend of 1,000
// endpoints in 2,000, the one with the greater address gets the next number that is free.
func members(s slots, v6, inside bool) []member {
	w := width(v6)
	all := make([]member, 0, min(len(s)/w, 64))
	for i := 0; i < len(s); i += w {
		all = append(all, member{0, string(s[i : i+w])})
	}
	byEndpoint := func(x, y member) int { return strings.Compare(x.endpoint, y.endpoint) }
	slices.SortFunc(all, byEndpoint)
	all = slices.CompactFunc(all, func(x, y member) bool { return x.endpoint == y.endpoint })
	for i := range all {
		all[i].number = uint32(kernel.StableHash(0, all[i].endpoint)) & numberMax
	}
	slices.SortStableFunc(all, func(x, y member) int { return cmp.Compare(x.number, y.number) })
	for i := 1; i < len(all); i++ {
		all[i].number = max(all[i].number, all[i-1].number+1)
	}
	flags := uint32(scratchBit)
	if inside {
		flags |= insideBit
	}
	for i := range all {
		all[i].number = all[i].number&numberMax | flags
	}
	return all
}

// numbersOf returns the number of each slot's member.
func numbersOf(s slots, all []member, v6 bool) []uint32 {
	w := width(v6)
	byEndpoint := make(map[string]uint32, len(all))
	for _, m := range all {
		byEndpoint[m.endpoint] = m.number
	}
	out := make([]uint32, 0, len(s)/w)
	for i := 0; i < len(s); i += w {
		out = append(out, byEndpoint[string(s[i:i+w])])
	}
	return out
}
