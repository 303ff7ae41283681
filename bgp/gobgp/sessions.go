package gobgp

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// session is what is remembered of one neighbour, longer than the library does.
type session struct {
	name    string
	dynamic bool
	removed bool // no longer wanted; its last event is awaited

	up         bool
	since      time.Time // of up
	flaps      int
	endReason  string       // of the last session
	attempt    string       // why it does not come up
	hint       string       // what else explains that the neighbour does not answer
	opened     time.Time    // since when there is a connection, but no session; zero: there is none
	verdict    string       // why this node is about to end the session
	restarting bool         // gone, routes kept
	group      netip.Prefix // of the range, if dynamic

	// notified is when a NOTIFICATION was sent or received last, and what it said.
	notified      time.Time
	code, subcode uint8

	awaited map[packet.Family]bool // families whose End-of-RIB has not come; nil: none are announced to come
	heard   time.Time              // when the neighbour last said anything about a best path
	silent  bool                   // it has been told that silence took the place of the End-of-RIB

	due time.Time // until when Settled waits for it to come up; zero: not at all
	ask time.Duration
}

// complete reports whether the neighbour has said all, and if not, when to ask again.
func (s *session) complete(now time.Time) (bool, time.Time) {
	limit := s.due
	if s.up {
		limit = s.since.Add(s.ask)
		if s.awaited == nil { // without graceful restart nothing tells the end but silence
			limit = later(s.since, s.heard).Add(quiet)
		} else if len(s.awaited) == 0 {
			return true, time.Time{}
		}
		limit = later(limit, s.due.Add(-s.ask))
	}
	return !now.Before(limit), limit
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// maxEarly bounds what is remembered of neighbours that nobody knows of.
const maxEarly = 100

// chore is a thing to be done at the library after an event.
type chore struct {
	peer netip.Addr
	do   deed
}

type deed int

const (
	evict  deed = iota // drop the routes that the library keeps
	hold               // likewise, and leave the neighbour alone for a while
	retell             // tell the neighbour everything again, soon
)

// sessions turns the library's events into what is known of each session.
type sessions struct {
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{} // has a value when there is something to look at

	mu     sync.Mutex // taken under the library's locks: nothing of the library may be called with it
	peers  map[netip.Addr]*session
	early  map[netip.Addr]session // NOTIFICATIONs to and from neighbours of ranges of whose session no event has come
	chores []chore
	news   bool
	begun  bool              // there was a Set
	ranges time.Time         // until when Settled waits for neighbours of ranges
	names  map[string]string // of ranges, by their peer groups
}

func newSessions(log *slog.Logger, now func() time.Time) *sessions {
	return &sessions{log: log, now: now, wake: make(chan struct{}, 1), peers: make(map[netip.Addr]*session), early: make(map[netip.Addr]session), names: make(map[string]string)}
}

func (s *sessions) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// expect is told each peer when it is set, again or for the first time. Settled waits for it for the time given.
func (s *sessions) expect(addr netip.Addr, name string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[addr]
	if p == nil || p.removed || p.dynamic {
		p = &session{since: s.now(), due: s.now().Add(wait), ask: wait}
		s.peers[addr] = p
	}
	p.name = name
}

// explain is told what else it may be when the neighbour does not answer.
func (s *sessions) explain(addr netip.Addr, hint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		p.hint = hint
	}
}

// expectRange is told each range when it is set. Settled waits the time given for neighbours that nobody knows of.
func (s *sessions) expectRange(group, name string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[group] = name
	if s.ranges.IsZero() {
		s.ranges = s.now().Add(wait)
	}
}

// begin is told after each Set.
func (s *sessions) begin() {
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	s.nudge()
}

// forget is told of a peer that is no longer wanted. What is known of it goes when its session has ended.
func (s *sessions) forget(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		p.removed = true
		if !p.up {
			delete(s.peers, addr)
		}
	}
}

// reset forgets all sessions; they have ended.
func (s *sessions) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.peers)
	s.chores = nil
	s.news = true
}

// diagnose is the tap's.
func (s *sessions) diagnose(addr netip.Addr, d diagnosis) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.restarting {
		return // the lock was all
	}
	p := s.peers[addr]
	if p == nil {
		if len(s.early) == maxEarly {
			clear(s.early)
		}
		if d.notification {
			s.early[addr] = session{attempt: d.text, notified: s.now(), code: d.code, subcode: d.subcode}
		}
		return
	}
	if d.connected {
		p.connected(s.now())
		return
	}
	p.attempt, p.opened = d.text, time.Time{}
	if d.timeout {
		p.attempt += p.hint
	}
	if d.notification {
		p.notified, p.code, p.subcode = s.now(), d.code, d.subcode
	}
}

// event is a change of a session's state at a time. Events come in order.
func (s *sessions) event(e *apiutil.Peer, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.nudge()
	addr := e.State.NeighborAddress
	up := e.State.SessionState == packet.BGP_FSM_ESTABLISHED
	p := s.peers[addr]
	if p == nil {
		if !up {
			return
		}
		early := s.early[addr]
		delete(s.early, addr)
		p = &early
		p.name, p.dynamic = s.names[e.Conf.PeerGroup], true
		p.group, _ = netip.ParsePrefix(e.Conf.PeerGroup) // that is how a range's group is called
		s.peers[addr] = p
	}
	s.news = true
	switch {
	case up:
		p.up, p.since, p.heard = true, at, at
		p.restarting, p.silent, p.opened = false, false, time.Time{}
		if p.notified.Before(at) { // else this very session has ended already
			p.attempt = ""
		}
		p.awaited = announcedEnds(e.State.RemoteCap, e.State.LocalCap)
		s.chores = append(s.chores, chore{addr, retell})
		s.log.Info("BGP session up", "peer", addr, "name", p.name, "as", e.State.PeerASN, "router-id", e.State.RouterID)
	case p.up:
		s.down(addr, p, e, at)
	case e.State.DisconnectReason == api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED:
		p.restarting = false
		p.endReason = "not back within its restart time"
		s.log.Info("BGP neighbour did not come back, its routes are dropped", "peer", addr, "name", p.name)
		if p.dynamic {
			delete(s.peers, addr)
		}
	default:
		p.opening(e.State.SessionState, at)
	}
}

func (s *sessions) down(addr netip.Addr, p *session, e *apiutil.Peer, at time.Time) {
	// The tap runs before the event is made, and its clock is the same.
	notified := !p.notified.Before(p.since) && !p.notified.After(at)
	held := false
	kept := e.State.DisconnectReason == api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART
	p.endReason = e.State.DisconnectMessage
	if notified {
		p.endReason = p.attempt
	}
	switch {
	case notified && p.code == packet.BGP_ERROR_CEASE && p.subcode == packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED:
		s.chores = append(s.chores, chore{addr, hold})
		kept, held = false, true
	case kept && notified:
		s.chores = append(s.chores, chore{addr, evict})
		kept = false
	}
	if p.verdict != "" {
		p.endReason, p.verdict = p.verdict, ""
	}
	if p.endReason == "" {
		p.endReason = "closed by this node"
	}
	if kept {
		p.endReason = "connection lost; routes are kept"
	}
	p.up, p.since, p.restarting, p.awaited = false, at, kept, nil
	p.flaps++
	s.log.Info("BGP session down", "peer", addr, "name", p.name, "reason", p.endReason)
	if p.removed || p.dynamic && !kept && !held {
		delete(s.peers, addr)
	}
}

// announcedEnds returns the families for which the neighbour is going to send an End-of-RIB: those of the session, if it has the graceful
// restart capability. Otherwise nil.
func announcedEnds(remote, own []packet.ParameterCapabilityInterface) map[packet.Family]bool {
	ours := make(map[packet.Family]bool)
	for _, c := range own {
		if mp, ok := c.(*packet.CapMultiProtocol); ok {
			ours[mp.CapValue] = true
		}
	}
	ends := make(map[packet.Family]bool)
	graceful := false
	for _, c := range remote {
		switch c := c.(type) {
		case *packet.CapMultiProtocol:
			if ours[c.CapValue] {
				ends[c.CapValue] = true
			}
		case *packet.CapGracefulRestart:
			graceful = true
		}
	}
	if !graceful {
		return nil
	}
	return ends
}

func (s *sessions) endOfRIB(addr netip.Addr, family packet.Family) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		if p.awaited == nil {
			p.awaited = map[packet.Family]bool{}
		}
		delete(p.awaited, family)
		s.news = true
		s.nudge()
	}
}

func (s *sessions) heard(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		p.heard = s.now()
	}
}

// blame notes why a session is going to be ended, and reports whether there is one.
func (s *sessions) blame(addr netip.Addr, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[addr]
	if p == nil || !p.up {
		return false
	}
	p.verdict = why
	return true
}

// established returns the neighbours that have a session, with their ranges if they belong to one.
func (s *sessions) established() map[netip.Addr]netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[netip.Addr]netip.Prefix)
	for addr, p := range s.peers {
		if p.up {
			out[addr] = p.group
		}
	}
	return out
}

// take returns what is to be done, and whether there is anything new to tell.
func (s *sessions) take() ([]chore, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chores, news := s.chores, s.news
	s.chores, s.news = nil, false
	return chores, news
}

// silences reports whether a neighbour that announces no End-of-RIB has fallen silent since it was asked last, and when to ask again; zero: not before
// the next event.
func (s *sessions) silences() (news bool, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, p := range s.peers {
		if !p.up || p.awaited != nil || p.silent {
			continue
		}
		done, limit := p.complete(now)
		if done {
			p.silent, news = true, true
		} else if next.IsZero() || limit.Before(next) {
			next = limit
		}
	}
	return news, next
}

// settled reports whether nothing more is to be waited for, and if not, when to ask again at the latest.
func (s *sessions) settled() (bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		return false, time.Time{}
	}
	now := s.now()
	var next time.Time
	wait := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if now.Before(s.ranges) {
		wait(s.ranges)
	}
	for _, p := range s.peers {
		if done, limit := p.complete(now); !done && !p.removed {
			wait(limit)
		}
	}
	return next.IsZero(), next
}
