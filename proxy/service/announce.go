package service

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// Route is an address of a Service that a node may announce by routing.
type Route struct {
	Prefix netip.Prefix // a host route (/32, /128)
	Kind   Kind         // not NodePort
	Local  bool         // only nodes with local endpoints announce it, and this is one
}

func (r Route) compare(o Route) int {
	return cmp.Or(comparePrefixes(r.Prefix, o.Prefix), cmp.Compare(r.Kind, o.Kind), compareBool(r.Local, o.Local))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Routes keeps up to date, while Services change, which of their addresses a node may announce:
//
//	traffic policy Cluster   every node, with endpoints or without: a client without luck is told so by a node, not lost on its way
//	traffic policy Local     nodes where a local endpoint answers (Address.Ready), so that the client's address is kept
//
// If two Services answer at one address, at different ports, one that announces it is enough. Routes is not safe for concurrent use.
type Routes struct {
	users map[Route]int // how many entries of Service.Addrs ask for each; none is 0
}

// NewRoutes returns Routes for no Service.
func NewRoutes() *Routes { return &Routes{users: map[Route]int{}} }

// Apply takes changes as Tracker.Next returns them, and reports whether List returns something else than before. The cost is that of the changes.
func (r *Routes) Apply(changes []Change) (changed bool) {
	was := map[Route]bool{} // of those in question: there before?
	for _, c := range changes {
		for route := range routes(c) {
			if _, ok := was[route]; !ok {
				was[route] = r.users[route] > 0
			}
		}
		for route, n := range routes(c) {
			if r.users[route] += n; r.users[route] == 0 {
				delete(r.users, route)
			}
		}
	}
	for route, w := range was {
		if w != (r.users[route] > 0) {
			return true
		}
	}
	return false
}

// routes yields the routes that c takes away, with -1, and those that it adds, with 1.
func routes(c Change) iter.Seq2[Route, int] {
	return func(yield func(Route, int) bool) {
		for _, side := range [...]struct {
			s *Service
			n int
		}{{c.Old, -1}, {c.New, 1}} {
			if side.s == nil {
				continue
			}
			for _, a := range side.s.Addrs {
				if a.Local && !a.Ready {
					continue
				}
				if !yield(Route{hostPrefix(a.Addr), a.Kind, a.Local}, side.n) {
					return
				}
			}
		}
	}
}

// List returns the routes, sorted by prefix. An address of several kinds is there several times.
func (r *Routes) List() []Route {
	list := make([]Route, 0, len(r.users))
	for route := range r.users {
		list = append(list, route)
	}
	slices.SortFunc(list, Route.compare)
	return list
}
