package bgp

import (
	"context"
	"net/netip"
	"slices"
)

// Speaker speaks BGP. Its methods may be called concurrently.
type Speaker interface {
	// Run serves until ctx ends and calls changed, from one goroutine, after Learned, Sessions or Settled would return something new; many
	// changes that come together are told once. At the end, sessions with graceful restart are left without a word, so that
	// their peers keep forwarding; the others are closed with a Cease. It returns an error when the speaker cannot go on. It must
	// be called once.
	Run(ctx context.Context, changed func()) error

	// Set makes the speaker be what want says. It waits for no peer. Sessions, announcements and filters that did not change are not
	// touched. What cannot be applied is joined into the error, by peer; the rest is applied. A change of AS, RouterID or the
	// listener ends all sessions. want is not changed and may be kept.
	Set(ctx context.Context, want Instance) error

	// Learned returns the routes that were chosen among what peers announced, sorted by netip.Prefix.Compare. The slice and what it points
	// to are never changed; a route that did not change is the same pointer again.
	Learned() []*Route

	// Settled reports whether Learned is complete: every peer that is reachable has said all that it had to say (End-of-RIB, RFC 4724,
	// section 2), or had its time to. Before that, what is missing in Learned says nothing. Once true it stays so.
	Settled() bool

	// Standing returns how the sessions stand, sorted by peer address: Name, Address, State as far as it is Established, Since, Restarted and
	// EndOfRIB. It costs little, since each sync asks for it.
	Standing() []SessionState

	// Sessions returns all that is known of all sessions, sorted by peer address. It is for people, and slow: it counts what is announced.
	Sessions() []SessionState

	// Counters returns the same for metrics. Announced is as of the last count, which may be minutes ago where there are many prefixes, or
	// NotCounted.
	Counters() []SessionState

	// Paths calls visit for each path that the query matches, accepted or not. It is for people, and slow.
	Paths(ctx context.Context, query PathQuery, visit func(Path)) error
}

// Route is a learned route: a prefix, and where the next hops of its best paths are. A Route is never changed after it was made.
type Route struct {
	Prefix   netip.Prefix // masked
	NextHops []netip.Addr // sorted, without duplicates; more than one when paths are equally good (ECMP)
	Local    bool         // the best path is an announcement of this node's own; it is not for the kernel
}

// Equal reports whether r and o say the same.
func (r *Route) Equal(o *Route) bool {
	return r == o || r != nil && o != nil && r.Prefix == o.Prefix && r.Local == o.Local && slices.Equal(r.NextHops, o.NextHops)
}
