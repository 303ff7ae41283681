package store

import (
	"net/netip"
	"time"
)

// A Holdover keeps the leases that vanished not because anybody took them away, but because the datastore lost them (its data was wiped, or
// restored from a backup), or because they expired while nobody could renew them. Their nodes are still there and will claim the same
// subnets again; without the holdover every node would remove all its peers for those seconds. A lease that was deleted for good
// in that time is held as well: the datastore does not tell, and a route to a node that left harms nobody for some seconds. The zero
// Holdover holds nothing. It is not safe for concurrent use.
type Holdover struct {
	leases map[Subnets]*Lease
	// index finds a held lease by what only one node can have: a subnet or a public address.
	index map[any]Subnets
	lasts time.Duration
	timer *time.Timer // nil while no holdover lasts
}

// Begin holds the leases of old that are not in next, which is what the datastore has now. It lasts for the time given since the last of
// their nodes claimed again: many nodes need longer than few.
func (h *Holdover) Begin(old, next []*Lease, lasts time.Duration) {
	*h = Holdover{}
	for _, l := range old {
		h.Hold(l, lasts)
	}
	for _, l := range next {
		h.Release(l)
	}
	if len(h.leases) == 0 {
		h.timer = nil
	}
}

// Hold holds l too, for the time given since l or the last lease was held or released. It reports whether l is the first that is held.
func (h *Holdover) Hold(l *Lease, lasts time.Duration) (first bool) {
	if first = h.timer == nil; first {
		*h = Holdover{leases: map[Subnets]*Lease{}, index: map[any]Subnets{}, lasts: lasts, timer: time.NewTimer(lasts)}
	}
	h.timer.Reset(lasts)
	h.leases[l.Subnets()] = l
	for _, key := range identity(l) {
		h.index[key] = l.Subnets()
	}
	return first
}

// Ends yields when the leases that are still held were held for long enough; it is nil while no holdover lasts.
func (h *Holdover) Ends() <-chan time.Time {
	if h.timer == nil {
		return nil
	}
	return h.timer.C
}

// Release ends the holding of the leases that l, which was read from the datastore, takes the place of: those with a subnet or a
// public address of l's. It returns the removals of those that l does not replace by having the same key.
func (h *Holdover) Release(l *Lease) []Change {
	var changes []Change
	for _, key := range identity(l) {
		held, ok := h.leases[h.index[key]]
		if !ok {
			continue
		}
		delete(h.leases, held.Subnets())
		if h.timer != nil {
			h.timer.Reset(h.lasts)
		}
		if held.Subnets() != l.Subnets() {
			changes = append(changes, Change{Subnets: held.Subnets()})
		}
	}
	return changes
}

// Held returns leases with those added that are held.
func (h *Holdover) Held(leases []*Lease) []*Lease {
	for _, l := range h.leases {
		leases = append(leases, l)
	}
	return leases
}

// End returns the removals of all that is still held, and holds nothing any more.
func (h *Holdover) End() []Change {
	var changes []Change
	for s := range h.leases {
		changes = append(changes, Change{Subnets: s})
	}
	*h = Holdover{}
	return changes
}

func identity(l *Lease) []any {
	var keys []any
	for _, p := range []netip.Prefix{l.Subnet, l.IPv6Subnet} {
		if p.IsValid() {
			keys = append(keys, p)
		}
	}
	for _, a := range []netip.Addr{l.PublicIP, l.PublicIPv6} {
		if a.IsValid() {
			keys = append(keys, a)
		}
	}
	return keys
}

// Len returns how many leases are held.
func (h *Holdover) Len() int { return len(h.leases) }
