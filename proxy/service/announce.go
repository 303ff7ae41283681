package service

import (
	"iter"
	"net/netip"
	"slices"
)

// Announced says which kinds of addresses a node announces by routing.
type Announced struct{ ClusterIPs, ExternalIPs, LoadBalancers bool }

// Prefixes returns what the node announces of these Services: a host route (/32, /128) for each address of an announced kind, sorted, none
// twice.
//
//	traffic policy Cluster   by every node, with endpoints or without: a client without luck is told so by a node, not lost on its way
//	traffic policy Local     by nodes where a local endpoint answers (Address.Ready), so that the client's address is kept
//
// If two Services answer at one address, at different ports, one that announces it is enough.
func (a Announced) Prefixes(services []*Service) []netip.Prefix {
	r := NewRoutes(a)
	for _, s := range services {
		r.count(Change{New: s})
	}
	return r.Prefixes()
}

// announces reports whether the node announces the address.
func (a Announced) announces(addr Address) bool {
	if addr.Local && !addr.Ready {
		return false
	}
	switch addr.Kind {
	case ClusterIP:
		return a.ClusterIPs
	case ExternalIP:
		return a.ExternalIPs
	case LoadBalancer:
		return a.LoadBalancers
	}
	return false
}

// Routes keeps what Announced.Prefixes returns up to date while Services change. It is not safe for concurrent use.
type Routes struct {
	announced Announced
	users     map[netip.Addr]int // announced addresses, and how many entries of Service.Addrs ask for each
}

// NewRoutes returns Routes for no Service.
func NewRoutes(a Announced) *Routes {
	return &Routes{announced: a, users: map[netip.Addr]int{}}
}

// Apply takes changes as Tracker.Next returns them, and reports whether what is announced changed. The cost is that of the changes.
func (r *Routes) Apply(changes []Change) (changed bool) {
	was := map[netip.Addr]bool{} // of the addresses in question: announced before?
	for _, c := range changes {
		for a := range r.addrs(c) {
			if _, ok := was[a]; !ok {
				was[a] = r.users[a] > 0
			}
		}
		r.count(c)
	}
	for a, w := range was {
		if w != (r.users[a] > 0) {
			return true
		}
	}
	return false
}

// addrs yields the addresses that c takes away, with -1, and those that it adds, with 1.
func (r *Routes) addrs(c Change) iter.Seq2[netip.Addr, int] {
	return func(yield func(netip.Addr, int) bool) {
		for _, side := range [...]struct {
			s *Service
			n int
		}{{c.Old, -1}, {c.New, 1}} {
			if side.s == nil {
				continue
			}
			for _, a := range side.s.Addrs {
				if r.announced.announces(a) && !yield(a.Addr, side.n) {
					return
				}
			}
		}
	}
}

func (r *Routes) count(c Change) {
	for a, n := range r.addrs(c) {
		if r.users[a] += n; r.users[a] == 0 {
			delete(r.users, a)
		}
	}
}

// Prefixes returns what is announced, sorted.
func (r *Routes) Prefixes() []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(r.users))
	for a := range r.users {
		prefixes = append(prefixes, hostPrefix(a))
	}
	slices.SortFunc(prefixes, comparePrefixes)
	return prefixes
}
