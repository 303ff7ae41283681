package zone

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	arpa4 = ".in-addr.arpa."
	arpa6 = ".ip6.arpa."
)

// parseReverse returns the address that a lower-case name below in-addr.arpa or ip6.arpa stands for, or the network of a shorter one. The rest is 0.
func parseReverse(name string) (netip.Prefix, bool) {
	if rest, ok := strings.CutSuffix(name, arpa4); ok {
		return parseDigits(rest, 4, 8)
	}
	if rest, ok := strings.CutSuffix(name, arpa6); ok {
		return parseDigits(rest, 32, 4)
	}
	return netip.Prefix{}, false
}

// parseDigits reads up to most numbers of width bits, the last one first, as they are written for people: no zeros in front.
func parseDigits(text string, most, width int) (netip.Prefix, bool) {
	labels := strings.Split(text, ".")
	if len(labels) > most {
		return netip.Prefix{}, false
	}
	base := 10
	if width == 4 {
		base = 16
	}
	bytes := make([]byte, most*width/8)
	for i, label := range labels {
		n, err := strconv.ParseUint(label, base, width)
		if err != nil || strconv.FormatUint(n, base) != label {
			return netip.Prefix{}, false
		}
		bit := (len(labels) - 1 - i) * width
		bytes[bit/8] |= byte(n) << (8 - width - bit%8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, len(labels)*width), true
}

// reverseName returns the name of a network whose length is whole octets, or whole digits of IPv6.
func reverseName(p netip.Prefix) string {
	name, err := dns.ReverseAddr(p.Addr().String())
	if err != nil {
		return "" // not an address, which a network always has
	}
	labels, width := p.Addr().BitLen()/8, 8
	if p.Addr().Is6() {
		labels, width = 32, 4
	}
	for range labels - p.Bits()/width {
		_, name, _ = strings.Cut(name, ".")
	}
	return name
}

// reverseApex returns the name of the zone that a name of an address belongs to: that of the network of Services or pods which it is in. A network
// whose length is not whole octets is as many zones as it has networks of the next whole one. An address outside has a zone of its own if it has a name.
func (z *Zone) reverseApex(name string) (string, bool) {
	p, ok := parseReverse(name)
	if !ok {
		return "", false
	}
	around := z.around.Load()
	width := 8
	if p.Addr().Is6() {
		width = 4
	}
	for _, networks := range [][]netip.Prefix{around.services, around.pods} {
		for _, network := range networks {
			bits := (network.Bits() + width - 1) / width * width
			if network.Contains(p.Addr()) && p.Bits() >= bits && bits > 0 {
				return reverseName(netip.PrefixFrom(p.Addr(), bits).Masked()), true
			}
		}
	}
	return name, p.IsSingleIP() && z.reverse.has(p.Addr())
}

// ofAddress answers for the name of an address or of a network.
func (q *question) ofAddress(name string) bool {
	p, _ := parseReverse(name)
	if !p.IsSingleIP() {
		if name == q.apex && q.qtype == dns.TypeSOA {
			soa := q.z.soa(q.apex)
			soa.Header().Name = q.name
			q.out.Records = []dns.RR{soa}
		}
		return true // somebody below may have a name: nobody is told that there is none
	}
	names, ok := q.z.reverse.get(p.Addr())
	if q.qtype == dns.TypePTR {
		for _, name := range names {
			q.out.Records = append(q.out.Records, &dns.PTR{Hdr: q.header(dns.TypePTR), Ptr: name})
		}
	}
	return ok
}

// link says that an address has a name.
type link struct {
	addr netip.Addr
	name string
}

func (l link) compare(o link) int {
	if c := l.addr.Compare(o.addr); c != 0 {
		return c
	}
	return strings.Compare(l.name, o.name)
}

// relink replaces the names that a Service gave to addresses. Both lists are sorted.
func (z *Zone) relink(old, next []link) {
	for _, l := range old {
		if _, stays := slices.BinarySearchFunc(next, l, link.compare); stays {
			continue
		}
		names, _ := z.reverse.get(l.addr)
		if names = without(names, l.name); len(names) == 0 {
			z.reverse.remove(l.addr)
		} else {
			z.reverse.put(l.addr, names)
		}
	}
	for _, l := range next {
		if _, was := slices.BinarySearchFunc(old, l, link.compare); was {
			continue
		}
		names, _ := z.reverse.get(l.addr)
		names = append(without(names, l.name), l.name)
		slices.Sort(names)
		z.reverse.put(l.addr, names)
	}
}

// without returns a copy.
func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
