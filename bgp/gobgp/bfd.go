package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/twill-cni/twill/bgp"
)

// bfdInterval is how often the states of BFD sessions are looked at. A loss has to be seen twice, hence it counts double in what detection takes.
const bfdInterval = 20 * time.Millisecond

// bfdMonitor runs the BFD sessions, in a second server of the library whose peers are shut down and do nothing else.
//
// In the server that has the BGP sessions, a BFD session that goes down orders its BGP session to be reset. When there is none at that moment, since
// the neighbour restarts, the order waits and ends the next one, and FRR takes its own BFD session down each time that a BGP session ends. Here such
// orders go to peers that never have a session, and what a loss means is decided by check.
type bfdMonitor struct {
	server *server.BgpServer
	peers  map[netip.Addr]bgp.BFD
	states map[netip.Addr]api.BfdSessionState // as of the last look
	lost   map[netip.Addr]bool                // was up, and was not at the last look
}

func startBFD(ctx context.Context, e *engine) (*bfdMonitor, error) {
	m := &bfdMonitor{
		peers: make(map[netip.Addr]bgp.BFD), states: make(map[netip.Addr]api.BfdSessionState), lost: make(map[netip.Addr]bool),
	}
	level := new(slog.LevelVar)
	level.Set(levelTrace)
	m.server = server.NewBgpServer(server.LoggerOption(slog.New(newTap(e.log, func(netip.Addr, diagnosis) {})), level))
	go m.server.Serve()
	err := m.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: e.as, RouterId: e.routerID.String(), ListenPort: -1, UseMultiplePaths: true,
	}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start BFD: %w", err), stopServer(m.server, false))
	}
	return m, nil
}

// set makes the difference between the sessions that are wanted and those that are there.
func (m *bfdMonitor) set(ctx context.Context, want map[netip.Addr]bgp.BFD) error {
	var errs []error
	for addr, b := range m.peers {
		if w, ok := want[addr]; !ok || w != b {
			errs = append(errs, m.remove(ctx, addr))
		}
	}
	for addr, b := range want {
		if _, ok := m.peers[addr]; !ok {
			errs = append(errs, m.add(ctx, addr, b))
		}
	}
	return errors.Join(errs...)
}

func (m *bfdMonitor) add(ctx context.Context, addr netip.Addr, b bgp.BFD) error {
	err := m.server.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: addr.String(), PeerAsn: 1, AdminDown: true},
		Transport: &api.Transport{PassiveMode: true},
		Bfd: &api.BfdPeerConfig{
			Enabled:                  true,
			DesiredMinimumTxInterval: uint32(b.Transmit.Microseconds()),
			RequiredMinimumReceive:   uint32(b.Receive.Microseconds()),
			DetectionMultiplier:      uint32(b.Multiplier),
		},
	}})
	if err != nil {
		return fmt.Errorf("add BFD to peer %v: %w", addr, err)
	}
	m.peers[addr] = b
	return nil
}

func (m *bfdMonitor) remove(ctx context.Context, addr netip.Addr) error {
	delete(m.peers, addr)
	delete(m.states, addr)
	delete(m.lost, addr)
	if err := m.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: addr.String()}); err != nil {
		return fmt.Errorf("remove BFD from peer %v: %w", addr, err)
	}
	return nil
}

// look reads the states, and returns the peers whose session was up and was not at the last look nor at this one. One look alone is not
// trusted: the loss of BFD and the end of the neighbour's TCP connection can come in any order.
func (m *bfdMonitor) look(ctx context.Context) (down []netip.Addr, changed bool) {
	m.server.ListBfdPeer(ctx, func(name string, st *api.BfdPeerState) {
		addr, err := netip.ParseAddr(name)
		if err != nil {
			return
		}
		if _, ok := m.peers[addr]; !ok {
			return
		}
		const up = api.BfdSessionState_BFD_SESSION_STATE_UP
		old := m.states[addr]
		m.states[addr] = st.SessionState
		changed = changed || old != st.SessionState
		switch {
		case st.SessionState == up:
			delete(m.lost, addr)
		case m.lost[addr]:
			delete(m.lost, addr)
			down = append(down, addr)
		case old == up:
			m.lost[addr] = true
		}
	})
	return down, changed
}

// setBFD gives BFD to neighbours while they have a session. It comes after BGP and goes with it, so that nothing of an earlier session is held against
// the next one, by neither side: FRR makes its BFD session anew when BGP is established, and ends BGP when the old one was up.
func (e *engine) setBFD(ctx context.Context) error {
	want := make(map[netip.Addr]bgp.BFD)
	for addr, group := range e.sessions.established() {
		b := e.peers[addr].BFD
		if group.IsValid() {
			b = e.ranges[group].BFD
		}
		if b != nil {
			want[addr] = *b
		}
	}
	return e.bfd.set(ctx, want)
}

// check ends the sessions of neighbours whose BFD session was lost, and drops their routes at once. A neighbour without a session has no more to
// lose: its routes stay for the restart that it announced. It returns when it is to be asked again; zero: not before something is set.
func (s *Speaker) check(ctx context.Context) (next time.Time, changed bool) {
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil || len(s.engine.bfd.peers) == 0 {
		return time.Time{}, false
	}
	down, changed := s.engine.bfd.look(ctx)
	for _, addr := range down {
		if !s.sessions.blame(addr, "BFD is down") {
			continue
		}
		if err := s.engine.do(chore{addr, evict}); err != nil {
			s.log.Warn("BGP session was not ended after the loss of BFD", "peer", addr, "error", err)
		}
	}
	return time.Now().Add(bfdInterval), changed
}
