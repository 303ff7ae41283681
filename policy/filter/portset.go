package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// protocols are those with ports, in the order of a portset.
var protocols = [...]store.Protocol{store.TCP, store.UDP, store.SCTP}

// span is a range of ports, both ends inclusive.
type span struct{ first, last uint16 }

// portset is a set of what a connection may be: a port of a protocol, or a protocol without ports, of which there is all or none. The zero portset is
// empty. A portset is never changed after it was made.
type portset struct {
	spans  [len(protocols)][]span // sorted, apart from each other by at least one port
	others bool
}

// full is everything.
var full = portset{spans: [...][]span{{{0, 65535}}, {{0, 65535}}, {{0, 65535}}}, others: true}

// portsOf returns the set of some ranges, in any order.
func portsOf(ranges []policy.PortRange) portset {
	var s portset
	for _, r := range ranges {
		if i := slices.Index(protocols[:], r.Protocol); i >= 0 && r.First <= r.Last {
			s.spans[i] = combine(s.spans[i], []span{{r.First, r.Last}}, or)
		}
	}
	return s
}

func or(x, y bool) bool     { return x || y }
func and(x, y bool) bool    { return x && y }
func andNot(x, y bool) bool { return x && !y }

// with applies an operation on membership to each element of the universe.
func (s portset) with(o portset, operation func(x, y bool) bool) portset {
	r := portset{others: operation(s.others, o.others)}
	for i := range s.spans {
		r.spans[i] = combine(s.spans[i], o.spans[i], operation)
	}
	return r
}

func combine(a, b []span, operation func(x, y bool) bool) []span {
	edges := make([]int, 1, 2*(len(a)+len(b))+2) // where membership in a or b may change; the first is 0
	for _, spans := range [...][]span{a, b} {
		for _, s := range spans {
			edges = append(edges, int(s.first), int(s.last)+1)
		}
	}
	edges = append(edges, 65536)
	slices.Sort(edges)
	edges = slices.Compact(edges)
	var out []span
	for i, e := range edges[:len(edges)-1] {
		first, last := uint16(e), uint16(edges[i+1]-1)
		if !operation(within(a, first), within(b, first)) {
			continue
		}
		if n := len(out); n > 0 && int(out[n-1].last)+1 == e {
			out[n-1].last = last
		} else {
			out = append(out, span{first, last})
		}
	}
	return out
}

// within reports whether one of the spans has the port.
func within(spans []span, port uint16) bool {
	i, _ := slices.BinarySearchFunc(spans, port, func(s span, port uint16) int { return int(s.last) - int(port) })
	return i < len(spans) && spans[i].first <= port
}

// contains reports whether a connection is in the set.
func (s portset) contains(protocol store.Protocol, port uint16) bool {
	if i := slices.Index(protocols[:], protocol); i >= 0 {
		return within(s.spans[i], port)
	}
	return s.others
}

func (s portset) count() (n int) {
	for _, spans := range s.spans {
		n += len(spans)
	}
	return n
}

// String is the canonical text: that of two sets is equal when the sets are. Hashes of it are in the kernel, so it must never change.
func (s portset) String() string {
	var b strings.Builder
	for i, spans := range s.spans {
		for _, one := range spans {
			fmt.Fprintf(&b, "%s %d-%d,", protocols[i], one.first, one.last)
		}
	}
	if s.others {
		b.WriteString("others")
	}
	return b.String()
}
