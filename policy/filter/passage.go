package filter

import (
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// passages bring addresses from the classes that the kernel has for them to those that they should have, when nobody knows what the numbers of the former stand
// for: policies changed while there was no daemon. They are what transitional classes are to a Plan: a passage has the pairs of the one class with subjects that
// go, and those of the other with all that stay or come, so neither the old chains nor the new ones see a difference.
type passages struct {
	filter  *Filter
	listing *Listing
	step    *step
	going   map[uint32][]kernel.Entry // pairs of subjects that nobody has any more, by class
	used    map[uint32]bool           // numbers of classes in the kernel
	made    map[route]uint32          // the number of a passage
}

// route is from a class that the kernel knows to one that there should be; nil: the one without answers.
type route struct {
	from uint32
	to   *class
}

// passagesFrom wants a listing out of which the pairs that there should be were taken.
func (f *Filter) passagesFrom(listing *Listing, s *step) *passages {
	p := &passages{filter: f, listing: listing, step: s, going: map[uint32][]kernel.Entry{}, used: map[uint32]bool{}, made: map[route]uint32{}}
	known := make(map[uint32]bool, len(f.subjects))
	for _, subject := range f.subjects {
		known[subject.number] = true
	}
	for key, value := range listing.Sets[gate.SetPairs] {
		subject, rest := kernel.CutNumber(key)
		class, _ := kernel.CutNumber(rest)
		p.used[class] = true
		if !known[subject] {
			p.going[class] = append(p.going[class], kernel.Entry{Key: key, Value: value})
		}
	}
	for _, v := range gate.Versions() {
		for _, value := range listing.Sets[v.Pods] {
			class, _ := kernel.CutNumber(value)
			p.used[class] = true
		}
	}
	for _, n := range listing.networks {
		p.used[n.class.number] = true
	}
	return p
}

// close gives the numbers back.
func (p *passages) close() {
	for _, number := range p.made {
		p.filter.classNumbers.free(number)
	}
}

// move plans the element of an address, which is to lead to entry, or not to be there (nil). It takes the element out of the listing.
func (p *passages) move(addr netip.Addr, entry *class) {
	i := versionOf(addr)
	elements, key := p.listing.Sets[gate.Versions()[i].Pods], string(keyOf(addr))
	value, there := elements[key]
	delete(elements, key)
	if !there && entry == nil {
		return // networks change with the table
	}
	outside := numberOf(classAt(p.listing.networks, addr))
	from, to := outside, entry
	if there {
		from, _ = kernel.CutNumber(value)
	}
	if to == nil {
		to = classAt(p.filter.networks, addr)
	}
	via := numberOf(to)
	if from != via && (len(p.going[from])+len(p.going[via]) > 0 || via == 0 && outside != 0) {
		via = p.through(route{from, to})
	}
	one := item{key: key, remove: there, add: via != 0, value: string(kernel.AppendNumber(nil, via))}
	if !there || one.value != value || via == 0 {
		p.step.before[i] = append(p.step.before[i], one)
	}
	switch {
	case entry == nil && via != 0:
		p.step.after[i].remove(key)
	case entry != nil && via != entry.number:
		p.step.after[i] = append(p.step.after[i], item{key: key, value: entry.value, remove: true, add: true})
	}
}

// through returns the number of a passage, and plans its pairs.
func (p *passages) through(r route) uint32 {
	if number, there := p.made[r]; there {
		return number
	}
	number := p.filter.classNumbers.take(fmt.Sprintf("from %d to %d", r.from, numberOf(r.to)), func(hash uint32) uint32 {
		if n := plain(hash); !p.used[n] {
			return n
		}
		return 0
	})
	p.made[r] = number
	own := string(kernel.AppendNumber(nil, number))
	pair := func(subject, value string) {
		p.step.pairs.add(kernel.Entry{Key: subject + own, Value: value})
		p.step.removePairs.remove(subject + own)
	}
	for _, e := range p.going[r.from] {
		pair(e.Key[:len(own)], e.Value)
	}
	seen := map[*subject]bool{}
	r.to.each(func(a *answer) {
		for s := range a.term.subjects {
			if ports := s.pairs[r.to]; ports != nil && !seen[s] {
				seen[s] = true
				pair(string(kernel.AppendNumber(nil, s.number)), ports.value)
			}
		}
	})
	return number
}

// numberOf is what the kernel knows a class by.
func numberOf(c *class) uint32 {
	if c == nil {
		return 0
	}
	return c.number
}
