package dnat

import (
	"cmp"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

// maxSlots is the most slots of a frontend, unless it has more endpoints than that.
const maxSlots = 4096

// slots says who has which slot: the endpoints in the form in which the kernel keeps them (address . port), one after the other, slot 0 first.
// The zero value has none. It is a string so that it is compared at once, shared, and cut into the values of entries without copying.
type slots string

// width is the size of an endpoint in a slot.
func width(v6 bool) int {
	if v6 {
		return 16 + 4
	}
	return 4 + 4
}

// share is an endpoint and how many slots it is to have.
type share struct {
	endpoint string
	count    int
}

// assigner hands out slots. It keeps memory for the next time; it must not be used by two at a time.
type assigner struct {
	v6     bool
	shares []share
	found  map[string]int
	text   []byte
}

// assign returns who has which slot when these are the endpoints and old is what was before. Who had a slot keeps it where that is possible: when one of N
// endpoints of equal weight goes, the one in the last slot moves to the slot that is free now, and when one comes, it gets a new slot at the end.
func (a *assigner) assign(old slots, s service.Scheduler, endpoints []service.Endpoint) slots {
	weights := a.prepare(endpoints)
	if len(a.shares) == 0 {
		return ""
	}
	switch s {
	case service.RoundRobin: // takes no weights
		for i := range a.shares {
			a.shares[i].count = 1
		}
	case service.WeightedRR:
		a.scale(weights)
		return a.interleave()
	case service.Maglev:
		return a.maglev(len(old) / width(a.v6))
	case service.LeastConnections, service.ShortestDelay, service.NeverQueue:
		// Weights change all the time here. As the number of slots does not change with them, neither does the plan.
		total := 16
		for total < 16*len(a.shares) && total < maxSlots {
			total *= 2
		}
		a.apportion(total, weights)
	default:
		a.scale(weights)
	}
	return a.keep(old)
}

// prepare fills in one share for each endpoint, with its weight, and returns their sum. Of endpoints that are the same, the first counts.
func (a *assigner) prepare(endpoints []service.Endpoint) int {
	a.shares, a.text = a.shares[:0], a.text[:0]
	for _, e := range endpoints {
		if e.Addr.Addr().Is6() == a.v6 && len(a.text) < insideOffset*width(a.v6) {
			a.text = kernel.AppendPort(kernel.AppendAddr(a.text, e.Addr.Addr()), e.Addr.Port())
		}
	}
	all := string(a.text)
	total := 0
	for _, e := range endpoints {
		if all == "" {
			break
		}
		if e.Addr.Addr().Is6() == a.v6 {
			a.shares = append(a.shares, share{all[:width(a.v6)], max(1, int(e.Weight))})
			all = all[width(a.v6):]
		}
	}
	a.shares = a.unique(a.shares)
	for _, s := range a.shares {
		total += s.count
	}
	return total
}

// few is the number of endpoints up to which comparing all with all is faster than a map.
const few = 16

func (a *assigner) unique(shares []share) []share {
	a.index(nil)
	out := shares[:0]
	for _, s := range shares {
		if a.find(out, s.endpoint) < 0 {
			out = append(out, s)
			a.note(len(out)-1, s.endpoint, len(shares))
		}
	}
	return out
}

// index makes find fast for many shares.
func (a *assigner) index(shares []share) {
	clear(a.found)
	for i, s := range shares {
		a.note(i, s.endpoint, len(shares))
	}
}

func (a *assigner) note(i int, endpoint string, of int) {
	if of > few {
		if a.found == nil {
			a.found = make(map[string]int)
		}
		a.found[endpoint] = i
	}
}

func (a *assigner) find(shares []share, endpoint string) int {
	if len(a.found) > 0 {
		if i, ok := a.found[endpoint]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(shares, func(s share) bool { return s.endpoint == endpoint })
}

// scale turns weights into the smallest counts that are in the same proportion, as far as there are slots enough.
func (a *assigner) scale(total int) {
	divisor := 0
	for _, s := range a.shares {
		divisor = gcd(divisor, s.count)
	}
	if total/divisor > maxSlots {
		a.apportion(maxSlots, total)
		return
	}
	for i := range a.shares {
		a.shares[i].count /= divisor
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// apportion divides slots by weight, so that each has at least one and the largest remainders are rounded up. With more endpoints than slots, all
// have one.
func (a *assigner) apportion(slotCount, weights int) {
	spare := slotCount - len(a.shares)
	if spare <= 0 {
		for i := range a.shares {
			a.shares[i].count = 1
		}
		return
	}
	type remainder struct{ share, rest int }
	remainders := make([]remainder, len(a.shares))
	left := spare
	for i, s := range a.shares {
		// What is due beyond the slot that everybody has; never negative, and what that takes is taken from all.
		due := max(0, s.count*slotCount-weights)
		remainders[i] = remainder{i, due}
	}
	sum := 0
	for _, r := range remainders {
		sum += r.rest
	}
	for i := range remainders {
		n := 0
		if sum > 0 {
			n = remainders[i].rest * spare / sum
			remainders[i].rest = remainders[i].rest * spare % sum
		}
		a.shares[i].count = 1 + n
		left -= n
	}
	slices.SortStableFunc(remainders, func(x, y remainder) int { return cmp.Compare(y.rest, x.rest) })
	for i := range left {
		a.shares[remainders[i%len(remainders)].share].count++
	}
}

// keep hands out as many slots as the shares say, those of old to who had them.
func (a *assigner) keep(old slots) slots {
	w, total := width(a.v6), 0
	for _, s := range a.shares {
		total += s.count
	}
	a.index(a.shares)
	out := append(a.text[:0], make([]byte, total*w)...)
	kept := make([]bool, total)
	for i := range min(total, len(old)/w) {
		endpoint := string(old[i*w : i*w+w])
		if j := a.find(a.shares, endpoint); j >= 0 && a.shares[j].count > 0 {
			a.shares[j].count--
			kept[i] = true
			copy(out[i*w:], endpoint)
		}
	}
	next := 0
	for i := range kept {
		if kept[i] {
			continue
		}
		for a.shares[next].count == 0 {
			next++
		}
		a.shares[next].count--
		copy(out[i*w:], a.shares[next].endpoint)
	}
	a.text = out
	if string(out) == string(old) {
		return old
	}
	return slots(out)
}

// interleave hands out slots so that the turns of each endpoint are spread evenly over the round. It is the same for the same shares in any order.
func (a *assigner) interleave() slots {
	type turn struct {
		at    float64
		share int
	}
	var turns []turn
	slices.SortFunc(a.shares, func(x, y share) int {
		return cmp.Or(cmp.Compare(y.count, x.count), cmp.Compare(x.endpoint, y.endpoint))
	})
	for i, s := range a.shares {
		for k := range s.count {
			turns = append(turns, turn{(float64(k) + 0.5) / float64(s.count), i})
		}
	}
	slices.SortFunc(turns, func(x, y turn) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.share, y.share)) })
	a.text = a.text[:0]
	for _, t := range turns {
		a.text = append(a.text, a.shares[t.share].endpoint...)
	}
	return slots(a.text)
}
