package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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

// later does what has its time: it adds the peers again whose penalty is over, and tells others everything again. It returns when it is to be called next; zero:
// there is nothing.
func (s *Speaker) later(ctx context.Context) time.Time {
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil {
		return time.Time{}
	}
	now := time.Now()
	released, err := s.engine.release(ctx, now)
	if err != nil {
		s.log.Warn("BGP peer was not added again", "error", err)
	}
	told, err := s.engine.tellAgain(ctx, now)
	if err != nil {
		s.log.Warn("BGP peer may lack a route", "error", err)
	}
	return earlier(released, told)
}

func (e *engine) do(c chore) error {
	ctx := context.Background()
	p, static := e.peers[c.peer]
	switch {
	case c.do == retell:
		e.expectRetelling(c.peer, time.Now())
		return nil
	case !static && c.do == hold:
		return e.shun(ctx, c.peer)
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

// shun refuses the connections of a neighbour of a range for a while: one that is known and shut down takes the place of the one that the range
// would make of it.
func (e *engine) shun(ctx context.Context, addr netip.Addr) error {
	_ = e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: addr.String()}) // mostly the library has done so itself
	as, longest := e.as, -1
	for prefix, r := range e.ranges {
		if prefix.Contains(addr.WithZone("")) && prefix.Bits() > longest {
			as, longest = r.AS, prefix.Bits()
		}
	}
	if err := e.server.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: addr.String(), PeerAsn: as, AdminDown: true},
		Transport: &api.Transport{PassiveMode: true},
	}}); err != nil {
		return fmt.Errorf("leave %v alone: %w", addr, err)
	}
	e.shunned[addr] = time.Now().Add(penalty)
	return nil
}

// unshun accepts its connections again.
func (e *engine) unshun(ctx context.Context, addr netip.Addr) error {
	if _, ok := e.shunned[addr]; !ok {
		return nil
	}
	delete(e.shunned, addr)
	if err := e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: addr.String()}); err != nil {
		return fmt.Errorf("leave %v alone no longer: %w", addr, err)
	}
	return nil
}

func (e *engine) release(ctx context.Context, now time.Time) (next time.Time, err error) {
	for addr, until := range e.shunned {
		if now.Before(until) {
			next = earlier(next, until)
			continue
		}
		err = errors.Join(err, e.unshun(ctx, addr))
		e.sessions.forget(addr)
	}
	for addr, until := range e.held {
		if now.Before(until) {
			next = earlier(next, until)
			continue
		}
		delete(e.held, addr)
		for _, p := range e.want.Peers {
			if p.Address == addr {
				err = errors.Join(err, e.addPeer(ctx, p, false))
			}
		}
	}
	return next, err
}
