package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
)

// Range is a run of addresses of one subnet.
type Range struct {
	Subnet  netip.Prefix // masked
	First   netip.Addr   // inclusive; never the network address (IPv4) or subnet-router anycast address (RFC 4291, 2.6.1)
	Last    netip.Addr   // inclusive; never the broadcast address
	Gateway netip.Addr   // in Subnet; zero when the subnet is a single address
}

// RangeSet is a list of ranges of one family, tried in order: a lease holds one address of the whole set.
type RangeSet []Range

func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Contains reports whether ip lies between First and Last.
func (r Range) Contains(ip netip.Addr) bool {
	return ip.Is4() == r.First.Is4() && ip.Compare(r.First) >= 0 && ip.Compare(r.Last) <= 0
}

// Size is the number of addresses from First to Last, the gateway included; math.MaxUint64 when there are more than that.
func (r Range) Size() uint64 {
	n := distance(r.First, r.Last)
	if n == math.MaxUint64 {
		return n
	}
	return n + 1
}

// Offset is the place of ip in the range, 0 for First; false when ip is not in the range or 2^64-1 or more addresses away.
func (r Range) Offset(ip netip.Addr) (uint64, bool) {
	if !r.Contains(ip) {
		return 0, false
	}
	n := distance(r.First, ip)
	return n, n != math.MaxUint64
}

// At is the address with the given offset, which must be less than Size.
func (r Range) At(offset uint64) netip.Addr {
	hi, lo := words(r.First)
	lo, carry := bits.Add64(lo, offset, 0)
	hi += carry
	if r.First.Is4() {
		return netip.AddrFrom4([4]byte{byte(lo >> 24), byte(lo >> 16), byte(lo >> 8), byte(lo)})
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}

// Is4 reports whether the set is of IPv4.
func (s RangeSet) Is4() bool { return s[0].First.Is4() }

// Find returns the range of the set that ip lies in.
func (s RangeSet) Find(ip netip.Addr) (Range, bool) {
	for _, r := range s {
		if r.Contains(ip) {
			return r, true
		}
	}
	return Range{}, false
}

// IsGateway reports whether ip is the gateway of any range. Such an address is never handed out, whichever range it is in.
func (c Config) IsGateway(ip netip.Addr) bool {
	for _, set := range c.Sets {
		for _, r := range set {
			if r.Gateway == ip {
				return true
			}
		}
	}
	return false
}

// words returns the address as a number; an IPv4 address is its own 32 bits.
func words(ip netip.Addr) (hi, lo uint64) {
	if ip.Is4() {
		b := ip.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := ip.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// distance is b - a for a <= b, math.MaxUint64 at most.
func distance(a, b netip.Addr) uint64 {
	ahi, alo := words(a)
	bhi, blo := words(b)
	lo, borrow := bits.Sub64(blo, alo, 0)
	if hi, _ := bits.Sub64(bhi, ahi, borrow); hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// lastAddr is the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

// parseRangeSet validates the ranges of one set; key is where they stand in the configuration.
func parseRangeSet(key string, in []rangeJSON) (RangeSet, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("%s: the range set is empty", key)
	}
	set := make(RangeSet, len(in))
	for i, raw := range in {
		r, err := parseRange(raw)
		if err != nil {
			return nil, fmt.Errorf("%s.%w", rangeKey(key, i), err)
		}
		set[i] = r
		if r.First.Is4() != set[0].First.Is4() {
			return nil, fmt.Errorf("%s.subnet: %s is not of the family of %s; each range set is of one family",
				rangeKey(key, i), r.Subnet, set[0].Subnet)
		}
	}
	return set, nil
}

func rangeKey(key string, i int) string {
	if key == "ipam" { // the single range of the old form
		return key
	}
	return fmt.Sprintf("%s[%d]", key, i)
}

func parseRange(in rangeJSON) (Range, error) {
	if in.Subnet == "" {
		return Range{}, errors.New("subnet: is missing")
	}
	subnet, err := parsePrefix(in.Subnet)
	if err != nil {
		return Range{}, fmt.Errorf("subnet: %w", err)
	}
	r := defaultRange(subnet)
	low, high := r.First, r.Last // what hosts may bear
	for _, f := range []struct {
		key, text string
		to        *netip.Addr
	}{{"rangeStart", in.RangeStart, &r.First}, {"rangeEnd", in.RangeEnd, &r.Last}, {"gateway", in.Gateway, &r.Gateway}} {
		if f.text == "" {
			continue
		}
		ip, err := parseIP(f.text)
		if err != nil {
			return Range{}, fmt.Errorf("%s: %w", f.key, err)
		}
		if !subnet.Contains(ip) {
			return Range{}, fmt.Errorf("%s: %s is not in subnet %s", f.key, ip, subnet)
		}
		if ip.Less(low) || high.Less(ip) {
			return Range{}, fmt.Errorf("%s: %s is the network or broadcast address of subnet %s", f.key, ip, subnet)
		}
		*f.to = ip
	}
	if r.Last.Less(r.First) {
		return Range{}, fmt.Errorf("rangeEnd: %s comes before rangeStart %s", r.Last, r.First)
	}
	if r.First == r.Last && r.First == r.Gateway {
		return Range{}, fmt.Errorf("subnet: %s leaves no address beside the gateway %s", subnet, r.Gateway)
	}
	return r, nil
}

// defaultRange takes all addresses that hosts may bear, and the first of them for the gateway. In a /31 (RFC 3021) and a /127
// (RFC 6164) both addresses are hosts'; a /32 or /128 is one host with no gateway.
func defaultRange(subnet netip.Prefix) Range {
	r := Range{Subnet: subnet, First: subnet.Addr(), Last: lastAddr(subnet)}
	if subnet.IsSingleIP() {
		return r
	}
	if subnet.Bits() < subnet.Addr().BitLen()-1 {
		r.First = r.First.Next()
		if r.First.Is4() {
			r.Last = r.Last.Prev()
		}
	}
	r.Gateway = r.First
	return r
}

// checkSets refuses ranges that share addresses, in one set or in two; keys name the sets.
func checkSets(sets []RangeSet, keys []string) error {
	type place struct {
		key string
		r   Range
	}
	var seen []place
	for i, set := range sets {
		for j, r := range set {
			here := place{rangeKey(keys[i], j), r}
			for _, p := range seen {
				if p.r.Contains(r.First) || r.Contains(p.r.First) {
					return fmt.Errorf("%s: %s overlaps %s: %s", here.key, r, p.key, p.r)
				}
			}
			seen = append(seen, here)
		}
	}
	return nil
}
