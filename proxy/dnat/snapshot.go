package dnat

import (
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Snapshot is what a Table says of Services at one moment. It never changes, and any goroutine may use it.
//
//	Table.Snapshot ──> Keys, or all of InspectedSets ──kernel──> Observed ──> State, Compare
type Snapshot struct {
	words    words
	services map[store.ObjectName]*held
	plans    map[uint32]string // the names of plans
}

// Snapshot returns what the Table says of the named Services, or of all when none are named. It takes some 100 ns for each.
func (t *Table) Snapshot(only ...store.ObjectName) *Snapshot {
	s := &Snapshot{words: t.words, plans: make(map[uint32]string, len(t.numbers))}
	for n, p := range t.numbers {
		s.plans[n] = p.name
	}
	if len(only) == 0 {
		s.services = maps.Clone(t.services)
		return s
	}
	s.services = map[store.ObjectName]*held{}
	for _, name := range only {
		if h := t.services[name]; h != nil {
			s.services[name] = h
		}
	}
	return s
}

// Names returns the names of the Services, sorted.
func (s *Snapshot) Names() []store.ObjectName {
	return slices.SortedFunc(maps.Keys(s.services), store.ObjectName.Compare)
}

// location is where an entry is.
type location struct {
	set int // an index into bulkSets
	key string
}

// each calls visit with all entries that the kernel should hold, each once, and the first Service that wants it. The strings share memory.
func (s *Snapshot) each(visit func(at location, value string, of store.ObjectName)) {
	e := edit{v6: s.words.v6()}
	seen := map[location]bool{} // what several Services may want
	address := func(set int, t *tally, times int, of store.ObjectName) {
		for a := range t.users {
			if at := (location{set, e.intern(e.address(a, times))}); !seen[at] {
				seen[at] = true
				visit(at, "", of)
			}
		}
	}
	for _, name := range s.Names() {
		h := s.services[name]
		for i := range h.frontends {
			e.frontend(nil, &h.frontends[i])
			for set := range e.sets {
				for _, entry := range e.sets[set].Add {
					visit(location{set, entry.Key}, entry.Value, name)
				}
				e.sets[set].Add = e.sets[set].Add[:0]
			}
		}
		own := Table{words: s.words}
		own.count(h.service, 1)
		address(hairpins, &own.hairpins, 2, name)
		address(clusterIPs, &own.clusterIPs, 1, name)
	}
}

// SetKeys are keys of a set.
type SetKeys struct {
	Set  string
	Keys []string
}

// Keys returns the keys of what the kernel should hold, and those of what it could hold in excess: one slot more than there should be, and the
// other ways in which a frontend may be kept. What else is too much shows only when the sets are listed.
func (s *Snapshot) Keys() []SetKeys {
	keys := map[location]bool{}
	s.each(func(at location, _ string, _ store.ObjectName) { keys[at] = true })
	e := edit{v6: s.words.v6()}
	for _, h := range s.services {
		for i := range h.frontends {
			f := &h.frontends[i]
			e.key = appendKey(slices.Grow(e.key[:0], 64), f.key)
			keys[location{serviceNumbers, string(e.key)}] = true
			keys[location{insideNumbers, string(e.key)}] = true
			for _, inside := range []bool{false, true} {
				slots, _ := f.side(inside)
				for _, slot := range []int{0, len(slots) / width(e.v6)} {
					key := string(e.numbered(slotNumber(slot, inside)))
					keys[location{endpoints, key}] = true
					keys[location{slotNumbers, key}] = true
				}
			}
		}
	}
	return keysOf(maps.Keys(keys))
}

func keysOf(places func(yield func(location) bool)) []SetKeys {
	out := make([]SetKeys, len(bulkSets))
	for i, set := range bulkSets {
		out[i].Set = set
	}
	for at := range places {
		out[at.set].Keys = append(out[at.set].Keys, at.key)
	}
	return slices.DeleteFunc(out, func(k SetKeys) bool { return len(k.Keys) == 0 })
}

// KeysOf returns where differences were found, of one family, to look there again.
func KeysOf(differences []Difference) []SetKeys {
	return keysOf(func(yield func(location) bool) {
		for _, d := range differences {
			if !yield(d.at) {
				return
			}
		}
	})
}

// AffinitySet is the map in which clients are remembered. It can be large, and State needs it only where HasAffinity.
const AffinitySet = setAffinity

// HasAffinity reports whether packets remember clients of any of the Services.
func (s *Snapshot) HasAffinity() bool {
	for _, h := range s.services {
		for i := range h.frontends {
			_, outside := h.frontends[i].side(false)
			if _, inside := h.frontends[i].side(true); inside || outside {
				return true
			}
		}
	}
	return false
}

// Observed is what the kernel holds: the Bulk sets or parts of them, and for State the map of affinity. The zero value holds nothing.
type Observed struct {
	listing Listing
	hits    map[string]uint64 // by frontend
	clients map[string][]kernel.EntryState
}

// Clear forgets a set's entries.
func (o *Observed) Clear(set string) {
	if set == setAffinity {
		o.clients = nil
		return
	}
	if set == setServices {
		o.hits = nil
	}
	o.listing.Clear(set)
}

// Add tells of an entry.
func (o *Observed) Add(set string, e kernel.EntryState) {
	switch set {
	case setAffinity:
		o.addClient(e)
		return
	case setServices:
		if o.hits == nil {
			o.hits = map[string]uint64{}
		}
		o.hits[e.Key] = e.Packets
	}
	o.listing.Add(set, e.Entry)
}

// addClient keeps an entry of the map of affinity by its frontend.
func (o *Observed) addClient(e kernel.EntryState) {
	size := 4 // an IPv4 client, with a frontend of 4, 4 and 4
	if len(e.Key) > 4*4 {
		size = 16
	}
	if len(e.Key) != 2*size+8 {
		return
	}
	if o.clients == nil {
		o.clients = map[string][]kernel.EntryState{}
	}
	o.clients[e.Key[size:]] = append(o.clients[e.Key[size:]], e)
}
