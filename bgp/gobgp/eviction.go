package gobgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// penalty is how long a neighbour that announced too many prefixes is left alone.
const penalty = time.Minute

// chores does what events left to be done, and reports whether there is anything new to tell.
func (s *Speaker) chores() bool {
	chores, news := s.sessions.take()
	if len(chores) == 0 {
		return news
	}
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil {
		return news
	}
	for _, c := range chores {
		if err := s.engine.do(c); err != nil {
			s.log.Warn("BGP session was not cleaned up", "peer", c.peer, "error", err)
		}
	}
	return true
}

// release adds the peers again whose penalty is over, and returns when the next one's is; zero: none.
func (s *Speaker) release(ctx context.Context) time.Time {
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil || len(s.engine.held) == 0 {
		return time.Time{}
	}
	next, err := s.engine.release(ctx, time.Now())
	if err != nil {
		s.log.Warn("BGP peer was not added again", "error", err)
	}
	return next
}

func (e *engine) do(c chore) error {
	ctx := context.Background()
	p, static := e.peers[c.peer]
	switch {
	case c.do == renewBFD:
		if !static || p.BFD == nil {
			return nil
		}
		return e.renewBFD(ctx, c.peer)
	case !static:
		return e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: c.peer.String()})
	case c.do == hold:
		e.held[c.peer] = time.Now().Add(penalty)
		return e.deletePeer(ctx, p)
	default:
		if err := e.deletePeer(ctx, p); err != nil {
			return err
		}
		return e.addPeer(ctx, p, false)
	}
}

// renewBFD makes a new BFD session. The old one would still notice that the neighbour is gone, and the library would hold that against
// the next BGP session: the demand to reset waits in a queue until there is a session to reset.
//
// An update of a peer takes away what graceful restart negotiated in the current session. There is none now.
func (e *engine) renewBFD(ctx context.Context, addr netip.Addr) error {
	p := e.peers[addr]
	off := p
	off.BFD = nil
	for _, p := range []*api.Peer{peerOf(off, e.families, false), peerOf(p, e.families, false)} {
		if _, err := e.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: p}); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) release(ctx context.Context, now time.Time) (next time.Time, err error) {
	for addr, until := range e.held {
		if now.Before(until) {
			if next.IsZero() || until.Before(next) {
				next = until
			}
			continue
		}
		delete(e.held, addr)
		for _, p := range e.want.Peers {
			if p.Address == addr {
				err = e.addPeer(ctx, p, false)
			}
		}
	}
	return next, err
}
