package gobgp

import (
	"context"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// penalty is how long a neighbour that announced too many prefixes is left alone.
const penalty = time.Minute

// chores does what events left to be done, and reports whether there is anything new to tell.
func (s *Speaker) chores() bool {
	chores, news := s.sessions.take()
	if !news {
		return false
	}
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil {
		return true
	}
	for _, c := range chores {
		if err := s.engine.do(c); err != nil {
			s.log.Warn("BGP session was not cleaned up", "peer", c.peer, "error", err)
		}
	}
	if err := s.engine.setBFD(context.Background()); err != nil {
		s.log.Warn("BFD was not set", "error", err)
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
