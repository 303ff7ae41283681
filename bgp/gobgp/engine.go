package gobgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/twill-cni/twill/bgp"
)

// bgpPort is that of a neighbour without a port (RFC 4271, section 8.2.1).
const bgpPort = 179

// chunk is how many prefixes are looked up, or announced, in one step; the library answers nobody else meanwhile.
const chunk = 1024

// engine is one life of the library's server: one AS, router ID and listener. Speaker.apply guards it.
type engine struct {
	log      *slog.Logger
	server   *server.BgpServer
	as       uint32
	routerID netip.Addr
	families []packet.Family
	cancel   context.CancelFunc // of the watchers

	want      bgp.Instance // as far as it could be applied
	peers     map[netip.Addr]bgp.Peer
	ranges    map[netip.Prefix]bgp.Range
	announced map[netip.Prefix]bgp.Announcement
	held      map[netip.Addr]time.Time // peers that are left alone until then
	shunned   map[netip.Addr]time.Time // likewise neighbours of ranges
	retell    map[netip.Addr]time.Time // when neighbours are told everything again
	filters   filters
	bfd       *bfdMonitor
	sessions  *sessions
	tally     *tally
	marks     *marks
}

// startEngine starts a server without peers.
func startEngine(ctx context.Context, s *Speaker, want bgp.Instance) (*engine, error) {
	e := &engine{
		log:       s.log,
		as:        want.AS,
		routerID:  want.RouterID,
		want:      bgp.Instance{AS: want.AS, RouterID: want.RouterID, Port: want.Port, Listen: slices.Clone(want.Listen), IPv4: want.IPv4, IPv6: want.IPv6},
		peers:     make(map[netip.Addr]bgp.Peer),
		ranges:    make(map[netip.Prefix]bgp.Range),
		announced: make(map[netip.Prefix]bgp.Announcement),
		held:      make(map[netip.Addr]time.Time),
		shunned:   make(map[netip.Addr]time.Time),
		retell:    make(map[netip.Addr]time.Time),
		sessions:  s.sessions,
		marks:     newMarks(s.doubt),
	}
	e.tally = newTally(e.advertised)
	if want.IPv4 {
		e.families = append(e.families, packet.RF_IPv4_UC)
	}
	if want.IPv6 {
		e.families = append(e.families, packet.RF_IPv6_UC)
	}
	// The first of the two servers, since each writes the library's package variables when it starts.
	monitor, err := startBFD(ctx, e)
	if err != nil {
		return nil, err
	}
	e.bfd = monitor
	level := new(slog.LevelVar)
	level.Set(levelTrace)
	e.server = server.NewBgpServer(server.LoggerOption(slog.New(newTap(s.log, s.sessions.diagnose)), level))
	go e.server.Serve()
	if err := e.start(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("start BGP speaker: %w", err), e.stop(false))
	}
	return e, nil
}

func (e *engine) start(ctx context.Context, s *Speaker) error {
	port := int32(e.want.Port)
	if port == 0 {
		port = -1
	}
	listen := make([]string, 0, len(e.want.Listen))
	for _, a := range e.want.Listen {
		listen = append(listen, a.String())
	}
	err := e.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: e.want.AS, RouterId: e.want.RouterID.String(), ListenPort: port, ListenAddresses: listen, UseMultiplePaths: true,
	}})
	if err != nil {
		return err
	}
	if err := e.assignPolicies(ctx); err != nil {
		return err
	}
	watch, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	return e.server.WatchEvent(watch, server.WatchEventMessageCallbacks{
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
			for _, p := range paths {
				if prefix, ok := prefixOf(p.Nlri); ok {
					e.marks.add(prefix, fresh(prefix, paths))
				}
				s.sessions.heard(p.PeerAddress)
			}
		},
		OnPathEor: func(p *apiutil.Path, _ time.Time) { s.sessions.endOfRIB(p.PeerAddress, p.Family) },
		OnPeerUpdate: func(ev *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
			if ev.Type == apiutil.PEER_EVENT_STATE {
				s.sessions.event(&ev.Peer, at)
			}
		},
	}, server.WatchBestPath(false), server.WatchEor(false), server.WatchPeer())
}

// stop ends the server. If graceful, sessions with graceful restart end without a word, so that their peers keep the routes.
func (e *engine) stop(graceful bool) error {
	if e.cancel != nil {
		e.cancel()
	}
	var err error
	if graceful {
		err = hangUp(e.graceful(), e.want.Port)
	}
	err = errors.Join(err, stopServer(e.server, graceful), stopServer(e.bfd.server, false))
	e.tally.stop()
	return err
}

// graceful returns the neighbours that keep this node's routes while it restarts, with their ports.
func (e *engine) graceful() map[netip.Addr]uint16 {
	neighbours := map[netip.Addr]uint16{}
	// It fails only while the server stops, and then there are no sessions.
	_ = e.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.State.NeighborAddress)
		if err == nil && p.GracefulRestart.GetEnabled() {
			neighbours[addr] = cmp.Or(e.peers[addr].Port, bgpPort)
		}
	})
	return neighbours
}

// stopServer stops a server. The library's shutdown can wait for itself when BFD is lost at that very moment, hence the limit.
func stopServer(s *server.BgpServer, graceful bool) error {
	done := make(chan error, 1)
	go func() {
		err := s.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: graceful})
		s.Stop() // the BFD part
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("stop BGP speaker: %w", err)
		}
		return nil
	case <-time.After(stopTime):
		return fmt.Errorf("stop BGP speaker: not done after %v", stopTime)
	}
}

// set makes the difference between want and what was set before.
func (e *engine) set(ctx context.Context, want bgp.Instance) error {
	errs := []error{
		e.setPolicies(ctx, want), e.setPeers(ctx, want), e.setRanges(ctx, want), e.setBFD(ctx), e.setAnnouncements(want.Announcements),
	}
	e.want = want
	e.sessions.begin()
	return errors.Join(errs...)
}

// lookup puts the routes of those that have none into findings, from the library's table.
func (e *engine) lookup(findings []finding) error {
	doubtful := make(map[packet.Family][]*finding)
	for i := range findings {
		if f := &findings[i]; f.route == nil {
			family := packet.RF_IPv6_UC
			if f.prefix.Addr().Is4() {
				family = packet.RF_IPv4_UC
			}
			doubtful[family] = append(doubtful[family], f)
		}
	}
	for family, all := range doubtful {
		for some := range slices.Chunk(all, chunk) {
			if err := e.lookupChunk(family, some); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *engine) lookupChunk(family packet.Family, findings []*finding) error {
	keys := make([]apiutil.LookupPrefix, len(findings))
	pointers := make([]*apiutil.LookupPrefix, len(findings))
	for i, f := range findings {
		keys[i].Prefix = f.prefix.String()
		pointers[i] = &keys[i]
	}
	routes := make(map[netip.Prefix]*bgp.Route, len(findings))
	err := e.server.ListPath(apiutil.ListPathRequest{
		TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family, Prefixes: pointers,
	}, func(nlri packet.NLRI, paths []*apiutil.Path) {
		if prefix, ok := prefixOf(nlri); ok {
			if r := routeOf(prefix, paths); r != nil {
				routes[prefix] = r
			}
		}
	})
	for _, f := range findings {
		f.route = routes[f.prefix]
	}
	return err
}

// fresh returns the route of a prefix that had none before the event with these paths; nil if the event does not tell it.
func fresh(prefix netip.Prefix, paths []*apiutil.Path) *bgp.Route {
	if len(paths) != 1 || paths[0].Withdrawal || paths[0].IsNexthopInvalid {
		return nil
	}
	paths[0].Best = true // the only one; events leave that out
	return routeOf(prefix, paths)
}

// routeOf makes a route of the best among paths, whose first is the best of all; nil if there is none.
func routeOf(prefix netip.Prefix, paths []*apiutil.Path) *bgp.Route {
	if len(paths) == 0 {
		return nil
	}
	r := &bgp.Route{Prefix: prefix}
	if local(paths[0]) {
		r.Local = true
		return r
	}
	for _, p := range paths {
		if nh := nextHopOf(p.Attrs); p.Best && nh.IsValid() {
			r.NextHops = append(r.NextHops, nh)
		}
	}
	if len(r.NextHops) == 0 {
		return nil
	}
	slices.SortFunc(r.NextHops, netip.Addr.Compare)
	r.NextHops = slices.Compact(r.NextHops)
	return r
}

// local reports whether the path is an announcement of this node's own.
func local(p *apiutil.Path) bool { return !p.PeerAddress.IsValid() }

func prefixOf(nlri packet.NLRI) (netip.Prefix, bool) {
	p, ok := nlri.(*packet.IPAddrPrefix)
	if !ok {
		return netip.Prefix{}, false
	}
	return p.Prefix, true
}

func nextHopOf(attrs []packet.PathAttributeInterface) netip.Addr {
	for _, a := range attrs {
		switch a := a.(type) {
		case *packet.PathAttributeNextHop:
			return a.Value
		case *packet.PathAttributeMpReachNLRI:
			return a.Nexthop
		}
	}
	return netip.Addr{}
}
