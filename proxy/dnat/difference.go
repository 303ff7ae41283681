package dnat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Difference is something that the kernel holds otherwise than it should.
type Difference struct {
	Service string `json:"service,omitempty"` // namespace/name of the Service that it belongs to, or of one that it belongs to; empty: to none
	Family  string `json:"family"`            // of the table: ip or ip6
	kernel.Difference

	at    location
	order int
}

// FamilyName is the name that nft has for a table's family.
func FamilyName(f kernel.TableFamily) string {
	if f == kernel.FamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

// Compare returns how what was observed differs from what should be there, sorted by Service and place. With among, only the places of those
// differences count, which are to be this family's, and only they need to have been observed. What was observed is used up.
func (s *Snapshot) Compare(o *Observed, among []Difference) []Difference {
	var at map[location]bool
	if among != nil {
		at = make(map[location]bool, len(among))
		for _, d := range among {
			at[d.at] = true
		}
	}
	c := comparison{snapshot: s}
	s.each(func(p location, want string, of store.ObjectName) {
		if at != nil && !at[p] {
			return
		}
		if have, ok := o.listing.take(bulkSets[p.set], []byte(p.key)); !ok {
			c.add(p, nothing, c.value(p.set, want), of)
		} else if have != want {
			c.add(p, c.value(p.set, have), c.value(p.set, want), of)
		}
	})
	for set, name := range bulkSets {
		for key, have := range o.listing.Sets[name] {
			p := location{set, key}
			c.add(p, c.value(set, have), nothing, c.owner(p))
		}
	}
	slices.SortFunc(c.out, func(x, y Difference) int {
		return cmp.Or(strings.Compare(x.Service, y.Service), cmp.Compare(y.at.set, x.at.set), strings.Compare(x.at.key[:x.order], y.at.key[:y.order]),
			cmp.Compare(len(x.What), len(y.What)), strings.Compare(x.What, y.What))
	})
	return c.out
}

// comparison collects differences.
type comparison struct {
	snapshot *Snapshot
	owners   map[string]store.ObjectName // by frontend; nil: not known yet
	out      []Difference
}

func (c *comparison) add(p location, have, want string, of store.ObjectName) {
	d := Difference{Family: FamilyName(c.snapshot.words.Family), at: p, order: len(p.key)}
	if of != (store.ObjectName{}) {
		d.Service = of.String()
	}
	if numbered(p.set) && len(p.key) >= 4 {
		d.order -= 4
	}
	d.Difference = kernel.Difference{What: bulkSets[p.set] + ": " + c.snapshot.keyText(p), Have: have, Want: want}
	c.out = append(c.out, d)
}

// owner returns the Service whose frontend an entry belongs to, if any.
func (c *comparison) owner(p location) store.ObjectName {
	if p.set == hairpins || p.set == clusterIPs {
		return store.ObjectName{}
	}
	if c.owners == nil {
		c.owners = map[string]store.ObjectName{}
		for name, h := range c.snapshot.services {
			for i := range h.frontends {
				c.owners[string(appendKey(nil, h.frontends[i].key))] = name
			}
		}
	}
	key := p.key
	if numbered(p.set) && len(key) >= 4 {
		key = key[:len(key)-4]
	}
	return c.owners[key]
}

// numbered reports whether a set's keys have a number behind the frontend.
func numbered(set int) bool { return set == endpoints || set == slotNumbers || set == memberEndpoints }

// nothing is what stands for an entry that is not there.
const nothing = "nothing"

// value is an entry's value in words.
func (c *comparison) value(set int, value string) string {
	switch set {
	case serviceNumbers, insideNumbers:
		n, _ := kernel.CutNumber(value)
		return c.snapshot.planText(n)
	case endpoints, memberEndpoints:
		return endpointOf(value, c.snapshot.words.v6()).String()
	case slotNumbers:
		n, _ := kernel.CutNumber(value)
		return memberText(n)
	}
	return "an entry"
}

func memberText(n uint32) string { return fmt.Sprintf("member %#x", n) }

// planText returns the name of the plan with this number.
func (s *Snapshot) planText(n uint32) string {
	if name, ok := s.plans[n]; ok {
		return name
	}
	return fmt.Sprintf("plan %d, which is unknown", n)
}

// endpointOf reads the value of a slot.
func endpointOf(value string, v6 bool) netip.AddrPort {
	a, rest := kernel.CutAddr(value, v6)
	port, _ := kernel.CutPort(rest)
	return netip.AddrPortFrom(a, port)
}

// keyText returns an entry's key in words: "10.96.0.7 tcp 80 slot 2".
func (s *Snapshot) keyText(p location) string {
	v6 := s.words.v6()
	a, rest := kernel.CutAddr(p.key, v6)
	if p.set == hairpins || p.set == clusterIPs {
		return a.String()
	}
	proto, rest := kernel.CutProto(rest)
	port, rest := kernel.CutPort(rest)
	text := fmt.Sprintf("%s %s %d", a, protocolName(store.Protocol(proto)), port)
	n, _ := kernel.CutNumber(rest)
	slot := n &^ scratchBit
	switch {
	case !numbered(p.set):
		return text
	case p.set == memberEndpoints:
		return text + " " + memberText(n)
	case slot == n:
		return fmt.Sprintf("%s number %d, which is no slot's", text, n)
	case slot >= insideOffset:
		return fmt.Sprintf("%s inside slot %d", text, slot-insideOffset)
	}
	return fmt.Sprintf("%s slot %d", text, slot)
}

// appendKey appends K.
func appendKey(b []byte, k service.FrontendKey) []byte {
	return kernel.AppendPort(kernel.AppendProto(kernel.AppendAddr(b, k.Addr), uint8(k.Protocol)), k.Port)
}
