package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// Pool is a range of addresses that is divided into subnets, one a node.
type Pool struct {
	Network   netip.Prefix
	SubnetLen int        // prefix length of a node's subnet, in bits
	Min, Max  netip.Addr // base address of the first and the last subnet that may be leased
}

// maxSlots bounds the subnets that are told apart: of a larger pool the first 2^62 are used.
const maxSlots = 1 << 62

// Size returns the number of subnets that may be leased, at most 2^62.
func (p Pool) Size() uint64 {
	n := addrValue(p.Max).sub(addrValue(p.Min)).shr(p.hostBits())
	if n.hi != 0 || n.lo >= maxSlots {
		return maxSlots
	}
	return n.lo + 1
}

// Contains reports whether subnet is one of those that may be leased.
func (p Pool) Contains(subnet netip.Prefix) bool {
	if !subnet.IsValid() || subnet.Bits() != p.SubnetLen || subnet.Masked() != subnet || !p.Network.Contains(subnet.Addr()) {
		return false
	}
	return !subnet.Addr().Less(p.Min) && !p.Max.Less(subnet.Addr())
}

// Pick returns a subnet that may be leased and overlaps none of taken; each of them is equally likely. It reports
// false when there is none. draw returns a number below n, such as rand.Uint64N of math/rand/v2 does. The cost is that of sorting
// taken, whatever the size of the pool.
func (p Pool) Pick(taken []netip.Prefix, draw func(n uint64) uint64) (netip.Prefix, bool) {
	spans, covered := p.spans(taken)
	free := p.Size() - covered
	if free == 0 {
		return netip.Prefix{}, false
	}
	slot := draw(free) // counts free subnets only; each span before it moves it on
	for _, s := range spans {
		if slot < s.first {
			break
		}
		slot += s.last - s.first + 1
	}
	return p.subnet(slot), true
}

// span is a range of slots; a slot is a subnet's number in its pool, counted from Min. Both ends are inclusive.
type span struct{ first, last uint64 }

// spans returns the slots that prefixes cover, sorted and without overlaps, and how many they are.
func (p Pool) spans(prefixes []netip.Prefix) (spans []span, covered uint64) {
	all := make([]span, 0, len(prefixes))
	for _, prefix := range prefixes {
		if s, ok := p.span(prefix); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b span) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return 0
	})
	for _, s := range all {
		if n := len(spans); n > 0 && s.first <= spans[n-1].last {
			spans[n-1].last = max(spans[n-1].last, s.last)
			continue
		}
		spans = append(spans, s)
	}
	for _, s := range spans {
		covered += s.last - s.first + 1
	}
	return spans, covered
}

// span returns the slots that prefix overlaps; false when there is none.
func (p Pool) span(prefix netip.Prefix) (span, bool) {
	if !prefix.IsValid() || !prefix.Overlaps(p.Network) {
		return span{}, false
	}
	lo, hi := addrValue(p.Min), addrValue(p.Max).add(u128{lo: 1}.shl(p.hostBits())).sub(u128{lo: 1})
	first := addrValue(prefix.Masked().Addr())
	last := first.add(u128{lo: 1}.shl(prefix.Addr().BitLen() - prefix.Bits())).sub(u128{lo: 1})
	if last.less(lo) || hi.less(first) {
		return span{}, false
	}
	if first.less(lo) {
		first = lo
	}
	if hi.less(last) {
		last = hi
	}
	a, b := first.sub(lo).shr(p.hostBits()), last.sub(lo).shr(p.hostBits())
	if a.hi != 0 || a.lo >= maxSlots {
		return span{}, false
	}
	if b.hi != 0 || b.lo >= maxSlots {
		b = u128{lo: maxSlots - 1}
	}
	return span{a.lo, b.lo}, true
}

// subnet returns the subnet with the given slot.
func (p Pool) subnet(slot uint64) netip.Prefix {
	base := addrValue(p.Min).add(u128{lo: slot}.shl(p.hostBits()))
	return netip.PrefixFrom(base.addr(p.Min.Is4()), p.SubnetLen)
}

func (p Pool) hostBits() int { return p.Network.Addr().BitLen() - p.SubnetLen }

// Choose returns subnets for a node, one of each family of the network. In each family the first one of wanted that fits and
// overlaps none of taken is kept; else one is drawn. A dual-stack node whose IPv6 subnet has to be drawn gets the one with
// the number of its IPv4 subnet where that is free: nodes that draw different IPv4 subnets at the same time then
// draw different IPv6 subnets too. draw is as in Pool.Pick. The error wraps ErrExhausted.
func (n Network) Choose(taken, wanted []Subnets, draw func(n uint64) uint64) (Subnets, error) {
	var s Subnets
	var ok bool
	if n.EnableIPv4 {
		used := family(taken, Subnets.ipv4)
		if s.IPv4, ok = n.IPv4.choose(used, family(wanted, Subnets.ipv4), draw); !ok {
			return Subnets{}, fmt.Errorf("choose a /%d of %s: %w", n.IPv4.SubnetLen, n.IPv4.Network, ErrExhausted)
		}
	}
	if n.EnableIPv6 {
		used, want := family(taken, Subnets.ipv6), family(wanted, Subnets.ipv6)
		if n.EnableIPv4 {
			if slot, ok := n.IPv4.span(s.IPv4); ok && slot.first < n.IPv6.Size() {
				want = append(want, n.IPv6.subnet(slot.first))
			}
		}
		if s.IPv6, ok = n.IPv6.choose(used, want, draw); !ok {
			return Subnets{}, fmt.Errorf("choose a /%d of %s: %w", n.IPv6.SubnetLen, n.IPv6.Network, ErrExhausted)
		}
	}
	return s, nil
}

// Fits reports whether s holds a subnet that may be leased of each family of the network and of no other.
func (n Network) Fits(s Subnets) bool {
	return n.EnableIPv4 == s.IPv4.IsValid() && n.EnableIPv6 == s.IPv6.IsValid() &&
		(!n.EnableIPv4 || n.IPv4.Contains(s.IPv4)) && (!n.EnableIPv6 || n.IPv6.Contains(s.IPv6))
}

func (p Pool) choose(taken, wanted []netip.Prefix, draw func(n uint64) uint64) (netip.Prefix, bool) {
	for _, w := range wanted {
		if p.Contains(w) && !slices.ContainsFunc(taken, w.Overlaps) {
			return w, true
		}
	}
	return p.Pick(taken, draw)
}

// family returns the subnets of one address family.
func family(all []Subnets, of func(Subnets) netip.Prefix) []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(all))
	for _, s := range all {
		if p := of(s); p.IsValid() {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

func (s Subnets) ipv4() netip.Prefix { return s.IPv4 }
func (s Subnets) ipv6() netip.Prefix { return s.IPv6 }

// u128 is an address as a number. Sums wrap around, as those of Go's unsigned integers do.
type u128 struct{ hi, lo uint64 }

func addrValue(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (u u128) addr(v4 bool) netip.Addr {
	if v4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(u.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], u.hi)
	binary.BigEndian.PutUint64(b[8:], u.lo)
	return netip.AddrFrom16(b)
}

func (u u128) add(v u128) u128 {
	lo, carry := bits.Add64(u.lo, v.lo, 0)
	hi, _ := bits.Add64(u.hi, v.hi, carry)
	return u128{hi, lo}
}

func (u u128) sub(v u128) u128 {
	lo, borrow := bits.Sub64(u.lo, v.lo, 0)
	hi, _ := bits.Sub64(u.hi, v.hi, borrow)
	return u128{hi, lo}
}

func (u u128) less(v u128) bool { return u.hi < v.hi || u.hi == v.hi && u.lo < v.lo }

// shl and shr shift by n bits, 0 to 128.
func (u u128) shl(n int) u128 {
	if n >= 64 {
		return u128{hi: u.lo << (n - 64)}
	}
	return u128{u.hi<<n | u.lo>>(64-n), u.lo << n}
}

func (u u128) shr(n int) u128 {
	if n >= 64 {
		return u128{lo: u.hi >> (n - 64)}
	}
	return u128{u.hi >> n, u.lo>>n | u.hi<<(64-n)}
}
