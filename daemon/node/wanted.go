package node

import (
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Wanted is what the kernel was last told to hold, and what of the records was skipped.
type Wanted struct {
	Fragments []*kernel.Fragment
	Links     []string // names of the links that the node looks after
	Rejected  []store.Reject
	Leases    []*store.Lease // all nodes'
	Self      *store.Lease
}

// Reached returns how many other nodes there is a way to: to all subnets of each, be it by a route to more than that.
func (w *Wanted) Reached() int {
	ways := w.ways()
	n := 0
	for _, l := range w.Leases {
		s := l.Subnets()
		if s != w.Self.Subnets() && leads(ways, s.IPv4) && leads(ways, s.IPv6) {
			n++
		}
	}
	return n
}

// Way returns the longest destination of a route by which the whole subnet is reached; false: there is none.
func (w *Wanted) Way(subnet netip.Prefix) (netip.Prefix, bool) { return longest(w.ways(), subnet) }

// ways are the destinations that packets are sent on to.
func (w *Wanted) ways() map[netip.Prefix]bool {
	ways := map[netip.Prefix]bool{}
	for _, f := range w.Fragments {
		for i := range f.Routes {
			if f.Routes[i].Type == kernel.Unicast {
				ways[f.Routes[i].Dst] = true
			}
		}
	}
	return ways
}

// leads reports whether there is a way to the subnet, as there is to none at all.
func leads(ways map[netip.Prefix]bool, subnet netip.Prefix) bool {
	_, ok := longest(ways, subnet)
	return ok || !subnet.IsValid()
}

func longest(ways map[netip.Prefix]bool, subnet netip.Prefix) (netip.Prefix, bool) {
	for bits := subnet.Bits(); bits >= 0; bits-- {
		if wider, err := subnet.Addr().Prefix(bits); err == nil && ways[wider] {
			return wider, true
		}
	}
	return netip.Prefix{}, false
}

// Wanted returns what the last sync was for; nil before the first. It may be called concurrently, and nothing of it is changed later.
func (n *Node) Wanted() *Wanted { return n.wanted.Load() }

// want keeps what a sync is for.
func (s *server) want(state kernel.State, leases []*store.Lease, rejected []store.Reject) {
	w := &Wanted{Fragments: state.Fragments, Rejected: rejected, Leases: leases, Self: s.reg.Lease()}
	for _, l := range state.Links {
		w.Links = append(w.Links, l.Name)
	}
	s.n.wanted.Store(w)
}
