package filter

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// Listing is what the kernel holds.
type Listing struct {
	kernel.Listing           // of gate.BulkSets
	networks       []network // their classes have a number and nothing else
}

// BulkSets returns the names of the sets that Compare wants to see by Add.
func BulkSets() []string { return gate.BulkSets() }

// NetworkSets returns the names of those that it wants to see by AddNetworks.
func NetworkSets() []string {
	versions := gate.Versions()
	return []string{versions[0].Networks, versions[1].Networks}
}

// AddNetworks tells of the elements of one of NetworkSets, in order of their keys; of the first set first. Those of a set that somebody has made otherwise
// say nothing.
func (l *Listing) AddNetworks(elements []kernel.Element) {
	for _, e := range elements {
		if len(e.Key) != 1 || !e.Key[0].Addr.IsValid() || len(e.Value) != 1 || len(e.KeyEnd) > 1 {
			continue
		}
		n := network{first: e.Key[0].Addr, last: e.Key[0].Addr, class: &class{number: e.Value[0].Number}}
		if len(e.KeyEnd) == 1 {
			n.last = e.KeyEnd[0].Addr
		}
		l.networks = append(l.networks, n)
	}
}

// Compare is Plan for when it is uncertain what the kernel holds: after a restart, a failed write or an edit by somebody else. The Plan has always the Table.
// It takes the listing over.
func (f *Filter) Compare(listing *Listing) Plan {
	f.Plan()
	f.Plan() // removes what the first one left
	var s step
	for _, p := range f.ports {
		for _, key := range p.keys {
			listing.compare(gate.SetPorts, kernel.Entry{Key: key}, &s.ports)
		}
	}
	for _, subject := range f.subjects {
		for c, p := range subject.pairs {
			listing.compare(gate.SetPairs, kernel.Entry{Key: pairKey(subject, c), Value: p.value}, &s.pairs)
		}
	}
	f.compareAddresses(listing, &s)
	s.removePairs.remove(listing.rest(gate.SetPairs)...)
	s.removePorts.remove(listing.rest(gate.SetPorts)...)
	s.pressing = true
	plan := s.plan()
	table := f.table()
	plan.Table = &table
	return plan
}

// compareAddresses plans the elements of pods.
func (f *Filter) compareAddresses(listing *Listing, s *step) {
	moves := f.passagesFrom(listing, s)
	defer moves.close()
	for _, a := range f.addrs {
		moves.move(a.addr, a.entry)
	}
	for _, v := range gate.Versions() {
		for _, key := range listing.rest(v.Pods) {
			if addr, ok := netip.AddrFromSlice([]byte(key)); ok {
				moves.move(addr, nil)
			}
		}
	}
}

// compare takes an entry that should be there out of the listing, and plans what differs.
func (l *Listing) compare(set string, want kernel.Entry, to *list) {
	have, there := l.Sets[set][want.Key]
	delete(l.Sets[set], want.Key)
	if !there || have != want.Value {
		*to = append(*to, item{key: want.Key, value: want.Value, remove: there, add: true})
	}
}

// rest returns the keys that nothing took.
func (l *Listing) rest(set string) []string { return slices.Sorted(maps.Keys(l.Sets[set])) }
