package topology

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// world is a cluster of planners. Sessions come up when both ends want each other, and routes travel as filters let them; both take time.
type world struct {
	t     *testing.T
	now   time.Time
	rand  *rand.Rand
	nodes []*sim
	since map[pair]time.Time // of the sessions that are up
	lost  map[pair]time.Time // of those that ended without a word: routes are kept
	cuts  map[pair]bool      // between which no packet passes
	drops int                // sessions that ended though both ends live
}

type pair struct{ low, high int }

// sim is one node.
type sim struct {
	i       int
	self    *store.Lease // without backend data
	uplink  kernel.Uplink
	record  store.NodeRecord
	planner *Planner

	published bgp.LeaseData // by an earlier run
	lease     *store.Lease  // as published
	plan      bgp.Planned
	dead      bool
	young     bool // it has just started: nothing is expected of it
}

const (
	tick     = 500 * time.Millisecond
	dial     = time.Second // from both wanting a session to its being up
	update   = time.Second // from a session's being up to its routes' being in use
	keep     = 30 * time.Second
	patience = 40 // ticks in which everything comes to rest
)

func addrOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2 + byte(i>>7), byte(i&127) + 1})
}
func subnetOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24)
}

var network = store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24}}

func newWorld(t *testing.T, n int, cfg string) *world { return newRandomWorld(t, n, cfg, 1) }

func newRandomWorld(t *testing.T, n int, cfg string, seed uint64) *world {
	w := &world{
		t: t, now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(seed, 2)),
		since: map[pair]time.Time{}, lost: map[pair]time.Time{}, cuts: map[pair]bool{},
	}
	for i := range n {
		s := &sim{
			i:      i,
			self:   &store.Lease{Subnet: subnetOf(i), PublicIP: addrOf(i), BackendType: bgp.BackendType},
			uplink: kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: []netip.Prefix{netip.PrefixFrom(addrOf(i), 16)}},
			record: store.NodeRecord{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{"rack": fmt.Sprintf("r%d", i%2), "other": "x"}},
		}
		w.nodes = append(w.nodes, s)
		w.configure(s, cfg)
		w.publish(s)
	}
	return w
}

func (w *world) configure(s *sim, text string) {
	w.t.Helper()
	cfg, err := config.Parse([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	s.planner = New(Options{Network: network, Config: cfg, Record: s.record, Published: s.published, Now: func() time.Time { return w.now }}, s.planner)
}

// start is that of a node's daemon, which may remember what the one before published.
func (w *world) start(s *sim, cfg string, published bgp.LeaseData) {
	s.planner, s.plan, s.dead, s.young = nil, bgp.Planned{}, false, true
	s.published = published
	w.configure(s, cfg)
	w.publish(s)
}

func (w *world) publish(s *sim) {
	attrs, err := s.planner.Attributes(s.uplink)
	if err != nil {
		w.t.Fatal(err)
	}
	s.lease = store.NewLease(s.self.Subnets(), attrs)
}

func (w *world) leases() []*store.Lease {
	var all []*store.Lease
	for _, s := range w.nodes {
		all = append(all, s.lease)
	}
	w.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func between(a, b int) pair { return pair{min(a, b), max(a, b)} }

func (w *world) established(a, b int) bool {
	since, ok := w.since[between(a, b)]
	return ok && w.now.Sub(since) >= dial
}

// usable reports whether a uses what it had from b.
func (w *world) usable(a, b int) bool {
	p := between(a, b)
	if lost, ok := w.lost[p]; ok {
		return w.now.Sub(lost) < keep
	}
	since, ok := w.since[p]
	return ok && w.now.Sub(since) >= dial+update
}

func (w *world) sessions(s *sim) []bgp.SessionState {
	var all []bgp.SessionState
	for _, p := range s.plan.Instance.Peers {
		o := w.at(p.Address)
		key := between(s.i, o.i)
		st := bgp.SessionState{Name: p.Name, Address: p.Address, State: "Active"}
		if since, ok := w.since[key]; ok && w.established(s.i, o.i) {
			st.State, st.Since, st.EndOfRIB = "Established", since.Add(dial), w.now.Sub(since) >= dial+update
		} else if lost, ok := w.lost[key]; ok {
			st.Since, st.Restarted, st.Flaps = lost, w.now.Sub(lost) < keep, 1
		}
		all = append(all, st)
	}
	w.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (w *world) at(a netip.Addr) *sim {
	for _, s := range w.nodes {
		if addrOf(s.i) == a {
			return s
		}
	}
	w.t.Fatalf("no node has address %v", a)
	return nil
}

func (s *sim) peer(o *sim) *bgp.Peer {
	for i := range s.plan.Instance.Peers {
		if s.plan.Instance.Peers[i].Address == addrOf(o.i) {
			return &s.plan.Instance.Peers[i]
		}
	}
	return nil
}

// tick lets time pass. Some nodes, in any order, notice what happened; then sessions follow.
func (w *world) tick() {
	w.now = w.now.Add(tick)
	for _, i := range w.rand.Perm(len(w.nodes)) {
		s := w.nodes[i]
		if s.dead || w.rand.IntN(3) == 0 {
			continue
		}
		before := s.plan.Instance
		s.plan = s.planner.Plan(bgp.PlanInput{Uplink: s.uplink, Self: s.self, Leases: w.leases(), Sessions: w.sessions(s)})
		w.reset(s, before)
		if s.plan.Publish != nil || w.rand.IntN(4) == 0 {
			w.publish(s)
		}
	}
	for _, a := range w.nodes {
		for _, b := range w.nodes[a.i+1:] {
			w.follow(a, b)
		}
	}
}

func (w *world) follow(a, b *sim) {
	key := between(a.i, b.i)
	wanted := a.peer(b) != nil && b.peer(a) != nil && !a.dead && !b.dead && !w.cuts[key]
	_, up := w.since[key]
	switch {
	case wanted && !up:
		w.since[key] = w.now
	case !wanted && up:
		if (a.dead || b.dead || w.cuts[key]) && w.established(a.i, b.i) {
			w.lost[key] = w.now
		}
		delete(w.since, key)
	}
	if since, ok := w.since[key]; ok && w.now.Sub(since) >= dial+update || a.peer(b) == nil && a.serves() || b.peer(a) == nil && b.serves() {
		delete(w.lost, key)
	}
}

// reset ends the sessions whose settings, other than filters, changed.
func (w *world) reset(s *sim, before bgp.Instance) {
	for _, old := range before.Peers {
		now := s.peer(w.at(old.Address))
		if now == nil {
			continue
		}
		a, b := *now, old
		a.Import, a.Export, b.Import, b.Export = nil, nil, nil, nil
		if !reflect.DeepEqual(a, b) {
			delete(w.since, between(s.i, w.at(old.Address).i))
			w.drops++
		}
	}
}

// reaches reports whether a has a route to b's pods: from b, or through one or two others.
func (w *world) reaches(a, b int) bool {
	if w.usable(a, b) {
		return true
	}
	for r := range w.nodes {
		if r == a || r == b || !w.usable(a, r) || !w.exports(r, a, b) {
			continue
		}
		if w.usable(r, b) && !w.nodes[r].dead || w.kept(a, r) {
			return true
		}
		for q := range w.nodes {
			if q != a && q != b && q != r && w.usable(r, q) && w.usable(q, b) && w.exports(q, r, b) && w.cluster(q) != w.cluster(r) {
				return true
			}
		}
	}
	return false
}

// kept reports whether a keeps what a dead node said.
func (w *world) kept(a, r int) bool {
	_, ok := w.lost[between(a, r)]
	return ok && w.usable(a, r)
}

func (w *world) cluster(i int) netip.Addr {
	for _, p := range w.nodes[i].plan.Instance.Peers {
		if p.Reflector != nil {
			return p.Reflector.ClusterID
		}
	}
	return netip.Addr{}
}

// exports reports whether node from lets the subnet of b, learned from elsewhere, out to node to.
func (w *world) exports(from, to, b int) bool {
	p := w.nodes[from].peer(w.nodes[to])
	return p != nil && p.Reflector != nil && accepts(p.Export, subnetOf(b), false)
}

// accepts applies rules as a speaker does.
func accepts(rules []bgp.Rule, prefix netip.Prefix, originated bool) bool {
	for _, r := range rules {
		if r.Originated && !originated || r.External || len(r.Prefixes) > 0 && !slices.ContainsFunc(r.Prefixes, func(m bgp.PrefixMatch) bool {
			return m.Prefix.Overlaps(prefix) && prefix.Bits() >= m.Min && prefix.Bits() <= m.Max
		}) {
			continue
		}
		return !r.Reject
	}
	return true
}

func (s *sim) serves() bool { return !s.dead && !s.young }

// cut returns the pairs of living nodes that do not reach each other.
func (w *world) cut() (all []string) {
	for a := range w.nodes {
		for b := range w.nodes {
			if a != b && w.nodes[a].serves() && w.nodes[b].serves() && !w.reaches(a, b) {
				all = append(all, fmt.Sprintf("n%d-n%d", a, b))
			}
		}
	}
	return all
}

// rest lets time pass until nothing changes any more; between times every pair has to be reachable.
func (w *world) rest(what string) {
	w.t.Helper()
	for i := range patience {
		w.tick()
		if cut := w.cut(); len(cut) > 0 {
			w.t.Fatalf("%s: after %v no route: %v", what, time.Duration(i)*tick, cut)
		}
	}
}

// settle lets time pass without looking.
func (w *world) settle() {
	for range patience {
		w.tick()
	}
}

// count returns how many sessions there are of each node.
func (w *world) count() map[string]int {
	n := map[string]int{}
	for p := range maps.Keys(w.since) {
		n[w.nodes[p.low].record.Name]++
		n[w.nodes[p.high].record.Name]++
	}
	return n
}

func (w *world) wantSessions(what string, each func(*sim) int) {
	w.t.Helper()
	have := w.count()
	for _, s := range w.nodes {
		if !s.dead && have[s.record.Name] != each(s) {
			w.t.Errorf("%s: %s has %d sessions, want %d", what, s.record.Name, have[s.record.Name], each(s))
		}
	}
}
