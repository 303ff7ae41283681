package store

import "slices"

// Change puts a lease into a snapshot or takes one out of it.
type Change struct {
	Subnets Subnets // of the lease
	Lease   *Lease  // nil: there is none any more
}

// Merge returns leases with the changes applied in their order. Both slices are sorted as a Snapshot's are. leases
// itself is not changed; it is returned as it is when the changes change nothing. A lease that is put again with the same content
// stays the same pointer. The cost is one copy of the slice and a binary search for each change.
func Merge(leases []*Lease, changes []Change) []*Lease {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return a.Subnets.Compare(b.Subnets) })
	var merged []*Lease // nil until something differs
	rest := leases
	for i, c := range changes {
		if i+1 < len(changes) && changes[i+1].Subnets == c.Subnets {
			continue // a later one decides
		}
		at, found := search(rest, c.Subnets)
		if found && rest[at].Equal(c.Lease) || !found && c.Lease == nil {
			continue
		}
		if merged == nil {
			merged = make([]*Lease, 0, len(leases)+len(changes)-i)
		}
		merged = append(merged, rest[:at]...)
		if c.Lease != nil {
			merged = append(merged, c.Lease)
		}
		if found {
			at++
		}
		rest = rest[at:]
	}
	if merged == nil {
		return leases
	}
	return append(merged, rest...)
}

// Replace returns next, sorted, with each lease that says the same as one of old replaced by that one. It returns old when
// nothing differs. next is changed in place.
func Replace(old, next []*Lease) []*Lease {
	slices.SortFunc(next, func(a, b *Lease) int { return a.Subnets().Compare(b.Subnets()) })
	same := len(old) == len(next)
	from := 0
	for i, l := range next {
		for from < len(old) && old[from].Subnets().Compare(l.Subnets()) < 0 {
			from++
		}
		if from < len(old) && old[from].Equal(l) {
			next[i] = old[from]
			continue
		}
		same = false
	}
	if same {
		return old
	}
	return next
}

// Find returns the lease with these subnets of a Snapshot's leases, or nil.
func Find(leases []*Lease, s Subnets) *Lease {
	if at, ok := search(leases, s); ok {
		return leases[at]
	}
	return nil
}

func search(leases []*Lease, s Subnets) (int, bool) {
	return slices.BinarySearchFunc(leases, s, func(l *Lease, s Subnets) int { return l.Subnets().Compare(s) })
}
