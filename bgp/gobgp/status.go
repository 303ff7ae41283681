package gobgp

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"github.com/twill-cni/twill/bgp"
)

var stateNames = map[api.PeerState_SessionState]string{
	api.PeerState_SESSION_STATE_IDLE:        "Idle",
	api.PeerState_SESSION_STATE_CONNECT:     "Connect",
	api.PeerState_SESSION_STATE_ACTIVE:      "Active",
	api.PeerState_SESSION_STATE_OPENSENT:    "OpenSent",
	api.PeerState_SESSION_STATE_OPENCONFIRM: "OpenConfirm",
	api.PeerState_SESSION_STATE_ESTABLISHED: "Established",
}

var bfdNames = map[api.BfdSessionState]string{
	api.BfdSessionState_BFD_SESSION_STATE_UP:         "Up",
	api.BfdSessionState_BFD_SESSION_STATE_DOWN:       "Down",
	api.BfdSessionState_BFD_SESSION_STATE_INIT:       "Init",
	api.BfdSessionState_BFD_SESSION_STATE_ADMIN_DOWN: "AdminDown",
}

// Standing implements bgp.Speaker.
func (s *Speaker) Standing() []bgp.SessionState { return s.sessions.standing() }

func (s *sessions) standing() []bgp.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bgp.SessionState, 0, len(s.peers))
	for addr, p := range s.peers {
		if p.removed {
			continue
		}
		st := bgp.SessionState{Address: addr, Dynamic: p.dynamic}
		if p.up {
			st.State = stateNames[api.PeerState_SESSION_STATE_ESTABLISHED]
		}
		p.fill(&st, s.now())
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b bgp.SessionState) int { return a.Address.Compare(b.Address) })
	return out
}

// Sessions implements bgp.Speaker.
func (s *Speaker) Sessions() []bgp.SessionState { return s.report((*tally).now) }

// Counters implements bgp.Speaker.
func (s *Speaker) Counters() []bgp.SessionState { return s.report((*tally).last) }

// report counts announced prefixes in the given way.
func (s *Speaker) report(announced func(*tally, []netip.Addr) map[netip.Addr]int) []bgp.SessionState {
	s.apply.Lock()
	e := s.engine
	if e == nil {
		s.apply.Unlock()
		return nil
	}
	peers, bfd := e.want.Peers, maps.Clone(e.bfd.states)
	s.apply.Unlock()
	states := make(map[netip.Addr]bgp.SessionState)
	for _, p := range peers {
		st := bgp.SessionState{Name: p.Name, Address: p.Address, AS: p.AS, State: "Idle"}
		if p.BFD != nil {
			st.BFD = "Down"
		}
		states[p.Address] = st
	}
	// It fails only while the server stops, and then there are no sessions.
	_ = e.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.State.NeighborAddress)
		if err != nil {
			return
		}
		st, static := states[addr]
		if !static {
			st = bgp.SessionState{Address: addr, Dynamic: true}
		}
		fillState(&st, p)
		states[addr] = st
	})
	figures := announced(e.tally, established(states))
	out := make([]bgp.SessionState, 0, len(states))
	for addr, st := range states {
		s.sessions.fill(addr, &st)
		if name, ok := bfdNames[bfd[addr]]; ok {
			st.BFD = name
		}
		if figure, ok := figures[addr]; ok || !st.Established() {
			st.Announced = figure
		} else {
			st.Announced = bgp.NotCounted
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b bgp.SessionState) int { return a.Address.Compare(b.Address) })
	return out
}

// established returns the neighbours that prefixes are announced to.
func established(states map[netip.Addr]bgp.SessionState) []netip.Addr {
	var out []netip.Addr
	for addr, st := range states {
		if st.Established() {
			out = append(out, addr)
		}
	}
	return out
}

func fillState(st *bgp.SessionState, p *api.Peer) {
	st.State = stateNames[p.State.SessionState]
	if p.State.PeerAsn != 0 {
		st.AS = p.State.PeerAsn
	}
	if id, err := netip.ParseAddr(p.State.RouterId); err == nil && !id.IsUnspecified() {
		st.RouterID = id
	}
	st.UpdatesIn = p.State.Messages.Received.Update
	st.UpdatesOut = p.State.Messages.Sent.Update
	for _, f := range p.AfiSafis {
		if f.State == nil {
			continue
		}
		st.Received += int(f.State.Received)
		st.Accepted += int(f.State.Accepted)
	}
}

// fill adds what the library forgets.
func (s *sessions) fill(addr netip.Addr, st *bgp.SessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		p.fill(st, s.now())
	}
}

// fill is called with the sessions' lock held. A neighbour without graceful restart sends no End-of-RIB, and has said all when it falls silent.
func (p *session) fill(st *bgp.SessionState, now time.Time) {
	st.Name = p.name
	st.Since, st.Flaps, st.Restarted = p.since, p.flaps, p.restarting
	if p.up && p.awaited == nil {
		done, _ := p.complete(now)
		st.EndOfRIB = done || p.silent
	} else {
		st.EndOfRIB = p.up && len(p.awaited) == 0
	}
	st.LastError = p.endReason
	switch {
	case p.unanswered(now):
		st.LastError = p.silence()
	case !p.up && p.attempt != "":
		st.LastError = strings.TrimSpace(p.attempt)
	}
}
