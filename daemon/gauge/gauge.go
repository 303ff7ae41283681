//go:build linux

package gauge

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/twill-cni/twill/store"
)

// Port is the UDP port on which nodes answer. All nodes of a cluster have the same.
const Port = 10270

// worstPeriod is for how long what is told of the worst peers is used again.
const worstPeriod = time.Second

// Peer is what was measured of the way to another node, by one address family.
type Peer struct {
	Node     string        `json:"node,omitempty"` // as it says itself; empty: it has not
	Key      string        `json:"key"`            // of its lease: the same for both families
	Address  netip.Addr    `json:"address"`        // in its pod subnet, which is asked
	Subnet   netip.Prefix  `json:"subnet"`         // of its pods
	Underlay netip.Addr    `json:"underlay,omitzero"`
	State    State         `json:"state"`
	Asked    int           `json:"asked"` // of the last 20 questions
	Lost     int           `json:"lost"`  // how many of these got no answer
	Refused  bool          `json:"refused,omitempty"`
	RTT      time.Duration `json:"rttNs"`    // the median; 0: none
	Least    time.Duration `json:"leastNs"`  // 0: none
	Latest   time.Duration `json:"latestNs"` // 0: none
	Answered time.Time     `json:"answered,omitzero"`
	Error    string        `json:"error,omitempty"` // why the last question could not be asked, or what the kernel said of it
	Edges    []Edge        `json:"edges,omitempty"` // what it says of others
}

// peer is one that is asked.
type peer struct {
	key      string
	address  netip.Addr
	subnet   netip.Prefix
	underlay netip.Addr
	self     netip.Addr // that asks it

	window   window
	node     string
	refused  bool
	answered time.Time
	trouble  string
	edges    []Edge
	busy     bool
	asked    time.Time     // at last
	suspect  bool          // it is among Gauge.suspects
	limit    *rate.Limiter // of what it is answered
}

// Gauge measures. Its methods may be called concurrently. Make it with New.
type Gauge struct {
	node    string
	metrics *metrics
	log     *slog.Logger
	changed chan struct{} // something of self or peers is new
	moved   chan struct{} // self is

	mu     sync.Mutex
	self   store.Subnets
	leases []*store.Lease
	peers  map[netip.Addr]*peer
	order  []netip.Addr // of peers, sorted
	next   int
	said   []byte // what is answered
	saidAt time.Time

	suspects []*peer // to be asked again soon, those first that have waited longest; some may be none any more
	again    bool    // the last turn was one of theirs
}

// New makes a Gauge of the node with that name. It asks nobody before Run.
func New(node string, log *slog.Logger) *Gauge {
	return &Gauge{node: node, log: log, metrics: newMetrics(), peers: map[netip.Addr]*peer{},
		changed: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
}

// SetSelf tells the subnets of this node's pods.
func (g *Gauge) SetSelf(own store.Subnets) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if own == g.self {
		return
	}
	g.self = own
	g.plan()
	nudge(g.moved)
}

// SetLeases tells the leases of all nodes.
func (g *Gauge) SetLeases(leases []*store.Lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leases = leases
	g.plan()
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// plan makes peers what leases say; mu is held. What was measured of those that stay is kept.
func (g *Gauge) plan() {
	peers := make(map[netip.Addr]*peer, len(g.peers))
	g.order = g.order[:0]
	add := func(l *store.Lease, own, subnet netip.Prefix, underlay netip.Addr) {
		if !own.IsValid() || !subnet.IsValid() || own == subnet {
			return
		}
		address, key := subnet.Addr().Next(), l.Subnets().Key()
		p := g.peers[address]
		if p == nil || p.key != key || p.underlay != underlay {
			p = &peer{key: key, address: address, subnet: subnet, underlay: underlay, limit: rate.NewLimiter(peerRate, peerBurst)}
		}
		p.self = own.Addr().Next()
		peers[address] = p
		g.order = append(g.order, address)
	}
	for _, l := range g.leases {
		add(l, g.self.IPv4, l.Subnet, l.PublicIP)
		add(l, g.self.IPv6, l.IPv6Subnet, l.PublicIPv6)
	}
	slices.SortFunc(g.order, netip.Addr.Compare)
	g.order = slices.Compact(g.order)
	g.peers = peers
	if g.next == 0 && len(g.order) > 0 {
		g.next = rand.IntN(len(g.order)) // not all nodes begin with the same one
	}
	nudge(g.changed)
}

// Run asks and answers until ctx ends.
func (g *Gauge) Run(ctx context.Context) error {
	wg, ctx := errgroup.WithContext(ctx)
	wg.Go(func() error { return g.ask(ctx) })
	wg.Go(func() error { return g.answer(ctx) })
	return wg.Wait()
}

// Peers returns what was measured, sorted by address.
func (g *Gauge) Peers() []Peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Peer, 0, len(g.order))
	for _, a := range g.order {
		p := g.peers[a]
		s := p.window.sum()
		out = append(out, Peer{Node: p.node, Key: p.key, Address: p.address, Subnet: p.subnet, Underlay: p.underlay, State: p.window.state(), Asked: s.asked, Lost: s.lost,
			Refused: p.refused, RTT: s.median, Least: s.least, Latest: s.latest, Answered: p.answered, Error: p.trouble, Edges: p.edges})
	}
	return out
}

// worst returns what is answered, but for the nonce; mu is held.
func (g *Gauge) worst(now time.Time) []byte {
	if g.said != nil && now.Sub(g.saidAt) < worstPeriod {
		return g.said
	}
	edges := make([]Edge, 0, maxEdges+1) // the worst so far, sorted
	for _, a := range g.order {
		w := &g.peers[a].window
		s := w.sum()
		e := Edge{To: a, State: w.state(), Loss: s.loss(), RTT: s.median}
		if len(edges) == maxEdges && compareEdges(e, edges[maxEdges-1]) > 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(edges, e, compareEdges)
		edges = slices.Insert(edges, at, e)
		edges = edges[:min(len(edges), maxEdges)]
	}
	g.said, g.saidAt = newAnswer(g.node, edges), now
	return g.said
}

// compareEdges has the worse one first.
func compareEdges(a, b Edge) int {
	return cmp.Or(cmp.Compare(badness(b.State), badness(a.State)), cmp.Compare(b.Loss, a.Loss), cmp.Compare(b.RTT, a.RTT), a.To.Compare(b.To))
}

// badness orders states.
func badness(s State) int { return slices.Index([]State{Unknown, Up, Silent, Down}, s) }
