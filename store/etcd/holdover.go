package etcd

import (
	"net/netip"
	"time"

	"github.com/twill-cni/twill/store"
)

// A holdover keeps the leases that vanished not because anybody took them away, but because etcd lost them (its data was wiped, or
// restored from a backup), or because they expired while nobody could renew them. Their nodes are still there and will claim the same
// subnets again; without the holdover every node would remove all its peers for those seconds. A lease that was deleted for good
// in that time is held as well: the datastore does not tell, and a route to a node that left harms nobody for some seconds.
type holdover struct {
	leases map[store.Subnets]*store.Lease
	// index finds a held lease by what only one node can have: a subnet or a public address.
	index map[any]store.Subnets
	lasts time.Duration
	timer *time.Timer // nil while no holdover lasts
}

// begin holds the leases of old that are not in next, which is what etcd has now. It lasts for the time given since the last of
// their nodes claimed again: many nodes need longer than few.
func (h *holdover) begin(old, next []*store.Lease, lasts time.Duration) {
	*h = holdover{}
	for _, l := range old {
		h.hold(l, lasts)
	}
	for _, l := range next {
		h.release(l)
	}
	if len(h.leases) == 0 {
		h.timer = nil
	}
}

// hold holds l too, for the time given since l or the last lease was held or released. It reports whether l is the first that is held.
func (h *holdover) hold(l *store.Lease, lasts time.Duration) (first bool) {
	if first = h.timer == nil; first {
		*h = holdover{leases: map[store.Subnets]*store.Lease{}, index: map[any]store.Subnets{}, lasts: lasts, timer: time.NewTimer(lasts)}
	}
	h.timer.Reset(lasts)
	h.leases[l.Subnets()] = l
	for _, key := range identity(l) {
		h.index[key] = l.Subnets()
	}
	return first
}

// ends yields when the leases that are still held were held for long enough; it is nil while no holdover lasts.
func (h *holdover) ends() <-chan time.Time {
	if h.timer == nil {
		return nil
	}
	return h.timer.C
}

// release ends the holding of the leases that l, which was read from etcd, takes the place of: those with a subnet or a
// public address of l's. It returns the removals of those that l does not replace by having the same key.
func (h *holdover) release(l *store.Lease) []store.Change {
	var changes []store.Change
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
			changes = append(changes, store.Change{Subnets: held.Subnets()})
		}
	}
	return changes
}

// held returns leases with those added that are held.
func (h *holdover) held(leases []*store.Lease) []*store.Lease {
	for _, l := range h.leases {
		leases = append(leases, l)
	}
	return leases
}

// end returns the removals of all that is still held, and holds nothing any more.
func (h *holdover) end() []store.Change {
	var changes []store.Change
	for s := range h.leases {
		changes = append(changes, store.Change{Subnets: s})
	}
	*h = holdover{}
	return changes
}

func identity(l *store.Lease) []any {
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
