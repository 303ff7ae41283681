package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// retellAfter is when a neighbour is told everything for a second time: the library is done with the session's beginning by then, and has announced what it
// held back after a restart. A soft reset ends with an End-of-RIB, at which the neighbour drops what it kept for the restarted one.
const retellAfter = (deferral + 1) * time.Second

// expectRetelling has a neighbour whose session has come up told everything again, soon, if it may have missed something. The library tells it the table, and then
// what changes; an update from another neighbour that arrives in between, while the session is becoming established, is in neither of the two. What this node announces
// itself is in the table before.
func (e *engine) expectRetelling(addr netip.Addr, now time.Time) {
	if e.passesOn() {
		e.retell[addr] = now.Add(retellAfter)
	}
}

// passesOn reports whether some neighbour is told what another one has said: between those of this AS that is so for clients of this route reflector only
// (RFC 4456, section 6).
func (e *engine) passesOn() bool {
	for _, p := range e.peers {
		if p.Reflector != nil || p.AS != e.as {
			return true
		}
	}
	for _, r := range e.ranges {
		if r.Reflector != nil || r.AS != e.as {
			return true
		}
	}
	return false
}

// tellAgain tells the neighbours whose time has come, and returns when the next one's does; zero: never. One whose session has ended meanwhile is left out.
func (e *engine) tellAgain(ctx context.Context, now time.Time) (next time.Time, err error) {
	due := map[string]bool{}
	for addr, at := range e.retell {
		if now.Before(at) {
			next = earlier(next, at)
			continue
		}
		delete(e.retell, addr)
		due[addr.String()] = true
	}
	if len(due) == 0 {
		return next, nil
	}
	listed := e.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if !due[p.State.NeighborAddress] || p.State.SessionState != api.PeerState_SESSION_STATE_ESTABLISHED {
			return
		}
		if e := e.softReset(ctx, p, api.ResetPeerRequest_DIRECTION_OUT); e != nil {
			err = fmt.Errorf("tell peer %s everything again: %w", p.State.NeighborAddress, e)
		}
	})
	if listed != nil {
		err = fmt.Errorf("list peers: %w", listed)
	}
	return next, err
}

// earlier returns the earlier of two times, of which the zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
