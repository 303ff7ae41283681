package dnat

import (
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Adopt takes over the numbers of plans, and who may use guarded frontends, from the elements of the sets PlanSets as they are in the kernel. It is
// for the time before the first Reset, so that the skeleton keeps what the kernel's elements lead to, and what is right need not be written
// again. What nothing uses stays until Prune. What is none of ours is passed over.
func (t *Table) Adopt(elements []kernel.Element) {
	for _, e := range elements {
		switch {
		case len(e.Key) == 1 && len(e.Value) == 1 && e.Value[0].Verdict != nil:
			t.adoptPlan(e.Value[0].Verdict.Chain, e.Key[0].Number)
		case len(e.Key) == 4:
			k := service.FrontendKey{Addr: e.Key[0].Addr, Protocol: store.Protocol(e.Key[1].Number), Port: uint16(e.Key[2].Number)}
			if allowed := network(e); allowed.IsValid() {
				g := t.guards[k]
				if g == nil {
					g = &guard{}
					t.guards[k] = g
				}
				g.allowed = disjoint(append(g.allowed, allowed), t.words.v6())
				t.skeleton = nil
			}
		}
	}
}

func (t *Table) adoptPlan(name string, number uint32) {
	p, err := ParsePlan(name)
	if err != nil || t.plans[p] != nil || t.numbers[number] != nil || p.Counter.Addr.IsValid() && p.Counter.Addr.Is6() != t.words.v6() {
		return
	}
	t.number(p, number)
	t.skeleton = nil
}

// network returns the client's network of an element of the set of ranges, which the kernel knows by its first and last address. An element that is
// no network has the zero Prefix.
func network(e kernel.Element) netip.Prefix {
	first := e.Key[3].Addr
	if e.Key[3].Prefix.IsValid() || len(e.KeyEnd) != 4 {
		if first.IsValid() {
			return netip.PrefixFrom(first, first.BitLen())
		}
		return e.Key[3].Prefix
	}
	last := e.KeyEnd[3].Addr
	for bits := 0; bits <= first.BitLen(); bits++ {
		if p := netip.PrefixFrom(first, bits); p.Masked() == p && lastOf(p) == last {
			return p
		}
	}
	return netip.Prefix{}
}

// lastOf returns a network's last address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
