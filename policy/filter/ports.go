package filter

import (
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// few is up to how many ports of a range are elements of the set of single ports, which is quicker to look up and to change than that of ranges.
const few = 4

// ports is a portset as the kernel knows it. Equal sets are one ports.
type ports struct {
	portset
	text   string
	number uint32
	value  string // the number, as a value of pairs
	users  int    // pairs, and subjects whose default it is

	known   bool     // it has its number
	written bool     // its keys are in the kernel
	keys    []string // of the set of single ports
	ranges  []kernel.Element
}

// portsFor returns the ports for a set.
func (f *Filter) portsFor(s portset) *ports {
	text := s.String()
	if p := f.ports[text]; p != nil {
		return p
	}
	return &ports{portset: s, text: text}
}

// use counts a user.
func (f *Filter) use(p *ports) {
	if p.users++; p.users > 1 {
		return
	}
	if !p.known {
		f.enter(p)
	}
	if !p.written {
		p.written = true
		f.step.ports.add(p.entries()...)
	}
}

// enter gives ports a number, and the elements that it has in the kernel.
func (f *Filter) enter(p *ports) {
	p.known = true
	f.ports[p.text] = p
	listed, flags := p.portset, uint32(0)
	if rest := full.with(p.portset, andNot); rest.count() < p.count() {
		listed, flags = rest, gate.FlagAllBut
	}
	if p.others {
		flags |= gate.FlagNoPorts
	}
	switch {
	case p.text == full.String():
		p.number = gate.PortsAll
	case p.text == "":
		p.number = gate.PortsNone
	default:
		p.number = f.portNumbers.take(p.text, func(hash uint32) uint32 { return flags | hash&gate.HashMask })
	}
	p.value = string(kernel.AppendNumber(nil, p.number))
	if p.number == gate.PortsAll {
		return
	}
	for i, spans := range listed.spans {
		for _, s := range spans {
			p.list(uint8(protocols[i]), s)
		}
	}
	if len(p.ranges) > 0 {
		f.step.table = true
	}
}

// list makes the elements of a range.
func (p *ports) list(protocol uint8, s span) {
	if int(s.last)-int(s.first) < few {
		for port := int(s.first); port <= int(s.last); port++ {
			p.keys = append(p.keys, string(kernel.AppendPort(kernel.AppendProto(kernel.AppendNumber(nil, p.number), protocol), uint16(port))))
		}
		return
	}
	key := func(port uint16) []kernel.Datum {
		return []kernel.Datum{{Number: p.number}, {Number: uint32(protocol)}, {Number: uint32(port)}}
	}
	p.ranges = append(p.ranges, kernel.Element{Key: key(s.first), KeyEnd: key(s.last)})
}

func (p *ports) entries() []kernel.Entry {
	entries := make([]kernel.Entry, len(p.keys))
	for i, key := range p.keys {
		entries[i].Key = key
	}
	return entries
}

// unuse takes a user away. What then has none is looked at by sweep.
func (f *Filter) unuse(p *ports) {
	if p.users--; p.users == 0 {
		f.unusedPorts = append(f.unusedPorts, p)
	}
}

// sweepPorts removes ports without users. Those with ranges stay in the table until the next Plan: packets may meet elements that lead there until After is
// written.
func (f *Filter) sweepPorts() {
	for _, p := range f.unusedPorts {
		if p.users > 0 || !p.written {
			continue
		}
		p.written = false
		f.step.removePorts.remove(p.keys...)
		if len(p.ranges) > 0 {
			f.lingering = append(f.lingering, p)
		} else {
			f.leave(p)
		}
	}
	f.unusedPorts = f.unusedPorts[:0]
}

// leave frees the number.
func (f *Filter) leave(p *ports) {
	if p.known {
		delete(f.ports, p.text)
		f.portNumbers.free(p.number)
		p.known, p.keys, p.ranges = false, nil, nil
	}
}

// sweepLingering removes the ranges that the last Plan could not.
func (f *Filter) sweepLingering() {
	for _, p := range f.lingering {
		if p.users == 0 {
			f.leave(p)
			f.step.table = true
		}
	}
	f.lingering = f.lingering[:0]
}
