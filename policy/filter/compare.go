package filter

import (
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// Listing is what the Bulk sets hold in the kernel.
type Listing struct{ kernel.Listing }

// BulkSets returns the names of the sets that Compare wants to see.
func BulkSets() []string { return gate.BulkSets() }

// Compare is Plan for when it is uncertain what the kernel holds: after a restart, a failed write or an edit by somebody else. The listing is of all
// gate.BulkSets; the Plan has always the Table. It takes the listing over.
func (f *Filter) Compare(listing *Listing) Plan {
	f.Plan()
	f.Plan() // removes what the first one left
	var s step
	for _, p := range f.ports {
		for _, key := range p.keys {
			listing.compare(gate.SetPorts, kernel.Entry{Key: key}, &s.ports, &s.ports)
		}
	}
	for _, subject := range f.subjects {
		for c, p := range subject.pairs {
			listing.compare(gate.SetPairs, kernel.Entry{Key: pairKey(subject, c), Value: p.value}, &s.pairs, &s.pairs)
		}
	}
	versions := gate.Versions()
	for _, a := range f.addrs {
		if a.entry != nil {
			i := versionOf(a.addr)
			listing.compare(versions[i].Pods, kernel.Entry{Key: string(keyOf(a.addr)), Value: a.entry.value}, &s.before[i], &s.after[i])
		}
	}
	for i, v := range versions {
		s.after[i].remove(listing.rest(v.Pods)...)
	}
	s.removePairs.remove(listing.rest(gate.SetPairs)...)
	s.removePorts.remove(listing.rest(gate.SetPorts)...)
	s.pressing = true
	plan := s.plan()
	table := f.table()
	plan.Table = &table
	return plan
}

// compare takes an entry that should be there out of the listing, and plans what is missing and what has another value.
func (l *Listing) compare(set string, want kernel.Entry, missing, other *list) {
	have, there := l.Sets[set][want.Key]
	delete(l.Sets[set], want.Key)
	switch {
	case !there:
		missing.add(want)
	case have != want.Value:
		*other = append(*other, item{key: want.Key, value: want.Value, remove: true, add: true})
	}
}

// rest returns the keys that nothing took.
func (l *Listing) rest(set string) []string { return slices.Sorted(maps.Keys(l.Sets[set])) }
