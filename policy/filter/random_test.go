package filter

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

var testConfig = Config{
	NodePods: []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("fd00:1:1::/64")},
	Bridge:   "cni0",
	CutMark:  1 << 20, LogGroup: 7, LogRate: 10, LogBurst: 20,
}

// scene is a random cluster, a Filter on its first node, and the table that it makes.
type scene struct {
	t       *testing.T
	cluster *policytest.Cluster
	random  *rand.Rand
	filter  *Filter
	world   *policy.World
	tracer  *tracer
	pods    map[store.PodKey]*store.Pod // as they were told
	locals  []Local
	changes []store.PolicyChanges
}

const thisNode = "dual"

func newScene(t *testing.T, seed uint64, hash func(uint64, string) uint32) *scene {
	s := &scene{t: t, random: rand.New(rand.NewPCG(seed, 7)), filter: newFilter(testConfig, hash), tracer: newTracer(t), pods: map[store.PodKey]*store.Pod{}}
	s.filter.idleMost = s.random.IntN(5) // soon too few
	s.cluster = policytest.Generate(rand.New(rand.NewPCG(seed, 8)), policytest.Size{
		Nodes: []policytest.Node{
			{Name: thisNode, IPv4: netip.MustParsePrefix("10.1.1.0/24"), IPv6: netip.MustParsePrefix("fd00:1:1::/64")},
			{Name: "four", IPv4: netip.MustParsePrefix("10.1.2.0/24")},
			{Name: "six", IPv6: netip.MustParsePrefix("fd00:1:3::/64")},
		},
		Namespaces: 3, Pods: 12, Policies: 5, ClusterPolicies: 3, Disputed: 0.05, Silent: 0.05, Anywhere: 0.2,
	})
	return s
}

// tell gives changes to the filter and to the world.
func (s *scene) tell(changes store.PolicyChanges) {
	s.filter.Apply(changes)
	s.changes = append(s.changes, changes)
	for key, p := range changes.Pods {
		if p == nil {
			delete(s.pods, key)
		} else {
			s.pods[key] = p
		}
	}
}

// attach makes most pods of the node local, some of them ahead of the datastore, which has a say about nobody else's addresses then.
func (s *scene) attach() {
	s.locals = nil
	taken := map[netip.Addr]bool{}
	for i, p := range s.cluster.Pods {
		if p.Node != thisNode || s.random.IntN(12) == 0 {
			continue
		}
		l := Local{Key: p.Key()}
		addrs := p.Addrs
		if len(addrs) == 0 {
			addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 1, byte(200 + i%50)})}
		}
		for _, a := range addrs {
			if !taken[a] {
				taken[a] = true
				l.Addrs = append(l.Addrs, a)
			}
		}
		s.locals = append(s.locals, l)
	}
	s.random.Shuffle(len(s.locals), func(i, j int) { s.locals[i], s.locals[j] = s.locals[j], s.locals[i] })
	s.filter.SetLocal(s.locals)
	s.truth()
}

// truth makes the world in which each local address is that of its attachment.
func (s *scene) truth() {
	s.world = policy.NewWorld()
	for _, c := range s.changes {
		c.Pods = nil
		s.world.Apply(c)
	}
	owner := map[netip.Addr]store.PodKey{}
	for _, l := range s.locals {
		for _, a := range l.Addrs {
			owner[a] = l.Key
		}
	}
	pods := map[store.PodKey]*store.Pod{}
	for key, p := range s.pods {
		own := *p
		own.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(a netip.Addr) bool { _, local := owner[a]; return local })
		for a, k := range owner {
			if k == key {
				own.Addrs = append(own.Addrs, a)
			}
		}
		pods[key] = &own
	}
	s.world.Apply(store.PolicyChanges{Pods: pods})
}

// expect is what follows from what the oracle says.
func (s *scene) expect(flow policy.Flow, v policy.Verdict) Answer {
	local := map[netip.Addr]bool{}
	for _, l := range s.locals {
		for _, a := range l.Addrs {
			local[a] = s.pods[l.Key] != nil
		}
	}
	if flow.Src == flow.Dst && local[flow.Src] {
		return Answer{}
	}
	side := func(own netip.Addr, d policy.Decision) Side {
		switch {
		case local[own] && d.Allowed:
			return Open
		case local[own]:
			return Refused
		case slices.ContainsFunc(testConfig.NodePods, func(p netip.Prefix) bool { return p.Contains(own) }):
			return Unknown
		}
		return Elsewhere
	}
	return Answer{side(flow.Src, v.Egress), side(flow.Dst, v.Ingress)}
}

// plan plans and writes, in random pieces; verdicts may not be otherwise than before and after, if steady.
func (s *scene) plan(steady bool, flows []policy.Flow) {
	s.t.Helper()
	opened := maps.Clone(s.filter.opened)
	p := s.filter.Plan()
	var before [][2]bool
	if s.tracer.table.Name != "" {
		before = s.allSides(flows)
	}
	if steady {
		s.applySteadily(p, flows)
	} else {
		s.tracer.apply(p, func() {})
	}
	for i, flow := range flows[:len(before)] {
		stays := opened[flow.Src] == s.filter.opened[flow.Src] && opened[flow.Dst] == s.filter.opened[flow.Dst]
		if before[i] != s.sides(flow) && (!p.Changed || stays && !p.Pressing) {
			s.t.Fatalf("%v changed, and the plan does not say so (changed %t, pressing %t)", flow, p.Changed, p.Pressing)
		}
	}
	for range 3 {
		if p = s.filter.Plan(); p.Empty() {
			return
		}
		if p.Changed || len(p.Before) > 0 {
			s.t.Errorf("what is cleared away changes something")
		}
		s.tracer.apply(p, func() {})
	}
	s.t.Fatal("plans do not end")
}

// applySteadily writes a plan; verdicts may not be otherwise than before and after.
func (s *scene) applySteadily(p Plan, flows []policy.Flow) {
	s.t.Helper()
	before := s.allSides(flows)
	var during [][][2]bool
	s.tracer.apply(p, func() { during = append(during, s.allSides(flows)) })
	after := s.allSides(flows)
	for n, now := range during {
		for i, flow := range flows {
			for side := range after[i] {
				if before[i][side] == after[i][side] && now[i][side] != after[i][side] {
					s.t.Fatalf("%v: side %d is %v before and after, and %v after step %d of %d", flow, side, after[i][side], now[i][side], n+1, len(during))
				}
			}
		}
	}
}

func (s *scene) allSides(flows []policy.Flow) [][2]bool {
	all := make([][2]bool, len(flows))
	for i, flow := range flows {
		all[i] = s.sides(flow)
	}
	return all
}

// sides asks both sides alone.
func (s *scene) sides(flow policy.Flow) [2]bool {
	source, _ := s.tracer.passes(gate.ChainSource, packetOf(flow))
	target, _ := s.tracer.passes(gate.ChainTarget, packetOf(flow))
	return [2]bool{source, target}
}

// check compares oracle, Allows, and the rules; and for some what is decided by FactsAt with what all that was told says.
func (s *scene) check(flows []policy.Flow) {
	s.t.Helper()
	told := policy.NewWorld()
	for _, c := range s.changes {
		told.Apply(c)
	}
	for i, flow := range flows {
		verdict := s.world.Decide(flow)
		if i%8 == 0 {
			about := policy.NewWorld()
			about.Apply(s.filter.FactsAt(flow.Src, flow.Dst))
			if have, want := about.Decide(flow), told.Decide(flow); !reflect.DeepEqual(have, want) {
				s.t.Fatalf("%+v: by what FactsAt returns %v, by all that was told %v", flow, have, want)
			}
		}
		want := s.expect(flow, verdict)
		have := s.filter.Allows(Flow{Flow: flow})
		if have != want {
			s.t.Fatalf("%+v: Allows says %+v, the oracle %+v: %v", flow, have, want, verdict)
		}
		if passes, why := s.tracer.passes(gate.ChainForward, packetOf(flow)); passes != want.Allowed() {
			s.t.Fatalf("%+v: the rules let it pass: %v (%s), the oracle says %+v", flow, passes, why, want)
		}
		toNode := s.filter.Allows(Flow{Flow: flow, ToNode: true})
		if passes, why := s.tracer.passes(gate.ChainInput, packetOf(flow)); passes != toNode.Allowed() && flow.Src != flow.Dst {
			s.t.Fatalf("%+v: the rules let it pass to the node: %v (%s), Allows says %+v", flow, passes, why, toNode)
		}
		for d, side := range [...]Side{have.Egress, have.Ingress} {
			decision, ok := s.filter.Explain(policy.Direction(d), flow)
			if side != Open && side != Refused {
				continue
			}
			if want := [...]policy.Decision{verdict.Egress, verdict.Ingress}[d]; !reflect.DeepEqual(want, decision) || !ok {
				s.t.Fatalf("%+v: explained as %v, by the oracle as %v", flow, decision, want)
			}
		}
	}
}

// flows are between all pods that concern this node, and some others.
func (s *scene) flows() []policy.Flow {
	flows := s.cluster.Flows(40)
	for _, a := range s.cluster.Pods {
		for _, b := range s.cluster.Pods {
			local := a.Node == thisNode || b.Node == thisNode
			if local && len(a.Addrs) > 0 && len(b.Addrs) > 0 && a.Addrs[0].Is4() == b.Addrs[0].Is4() {
				one := s.cluster.Flows(1)[0]
				one.Src, one.Dst = a.Addrs[0], b.Addrs[0]
				flows = append(flows, one)
			}
		}
	}
	return flows
}

// times multiplies how many random worlds are tried; 10 take ten minutes of a processor.
var times = flag.Uint64("times", 1, "try so many times the usual number of random worlds")

func seeds(short, long uint64) uint64 {
	if testing.Short() {
		return short
	}
	return long * *times
}

func (s *scene) run(steps int) {
	s.t.Helper()
	s.tell(s.cluster.Changes())
	s.attach()
	s.plan(false, nil)
	s.check(s.flows())
	for range steps {
		steady := true
		for range 1 + s.random.IntN(4)/3 {
			c := s.cluster.Change()
			steady = steady && len(c.Pods)+len(c.Namespaces) == 0
			s.tell(c)
		}
		if !steady && s.random.IntN(2) == 0 {
			s.attach()
		} else {
			s.truth()
		}
		flows := s.flows()
		s.plan(steady, flows)
		s.check(flows)
	}
}

// TestRandom compares what the oracle says with Allows and with what the rules do, over changes; and each state between two writes with those
// before and after.
func TestRandom(t *testing.T) {
	for seed := range seeds(25, 150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { newScene(t, seed, hash32).run(12) })
	}
}

// TestCollisions is the same with numbers that are hardly ever free.
func TestCollisions(t *testing.T) {
	for seed := range seeds(10, 30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			newScene(t, seed, func(attempt uint64, text string) uint32 { return hash32(0, text)%3 + uint32(attempt) }).run(8)
		})
	}
}

// TestRestart: a filter without a memory writes nothing, whatever the history was, and in whatever order it is told.
func TestRestart(t *testing.T) {
	for seed := range seeds(15, 60) {
		s := newScene(t, seed, hash32)
		s.run(8)
		s.filter.idleMost = 0 // which a restarted one does not know
		for p := s.filter.Plan(); !p.Empty(); p = s.filter.Plan() {
			s.tracer.apply(p, func() {})
		}
		again := s.restarted(hash32)
		p := again.Compare(s.tracer.list())
		s.tracer.writes, s.tracer.tables, s.tracer.counting = 0, 0, true
		s.tracer.apply(p, func() {})
		if s.tracer.writes+s.tracer.tables > 0 {
			t.Fatalf("seed %d: a restart writes %d elements, and %d tables", seed, s.tracer.writes, s.tracer.tables)
		}
		s.filter = again
		s.damage()
		s.tracer.apply(again.Compare(s.tracer.list()), func() {})
		s.check(s.flows())
		if p := again.Plan(); !p.Empty() {
			t.Fatalf("seed %d: after Compare, there is more to write", seed)
		}
	}
}

// restarted returns a filter that is told all anew.
func (s *scene) restarted(hash func(uint64, string) uint32) *Filter {
	again := newFilter(testConfig, hash)
	if s.random.IntN(2) == 0 {
		again.SetLocal(s.locals)
	}
	for _, part := range pieces(s.random, s.cluster.Changes()) {
		again.Apply(part)
	}
	again.SetLocal(s.locals)
	return again
}

// TestRestartAfterChanges: policies that changed while there was nobody are written so that what is allowed, or refused, before and after is so at each moment
// in between; also when that is cut short, and policies change once more, again and again.
func TestRestartAfterChanges(t *testing.T) {
	for seed := range seeds(25, 150) {
		s := newScene(t, seed, hash32)
		s.run(4)
		flows := s.flows()
		for range 6 {
			for range s.random.IntN(4) {
				s.tell(s.cluster.ChangePolicy())
			}
			s.truth()
			s.filter = s.restarted(hash32)
			p := s.filter.Compare(s.tracer.list())
			if s.random.IntN(2) == 0 {
				p = s.cutShort(p)
				s.applySteadily(p, flows)
				continue
			}
			s.applySteadily(p, flows)
			s.check(flows)
			if p := s.filter.Plan(); !p.Empty() {
				t.Fatalf("seed %d: after Compare, there is more to write", seed)
			}
		}
	}
}

// cutShort is what a daemon has written of a plan that is killed meanwhile.
func (s *scene) cutShort(p Plan) Plan {
	switch s.random.IntN(3) {
	case 0:
		p.Before = p.Before[:s.random.IntN(len(p.Before)+1)]
		p.Table, p.After = nil, nil
	case 1:
		p.After = nil
	default:
		p.After = p.After[:s.random.IntN(len(p.After)+1)]
	}
	return p
}

// pieces tells the same in parts, in any order: the first one is a reset, which is empty.
func pieces(random *rand.Rand, all store.PolicyChanges) []store.PolicyChanges {
	parts := []store.PolicyChanges{{Policies: all.Policies}, {ClusterPolicies: all.ClusterPolicies}, {Namespaces: all.Namespaces}, {Pods: all.Pods}}
	random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return append([]store.PolicyChanges{{Reset: true}}, parts...)
}

// damage does to Bulk sets what others might do.
func (s *scene) damage() {
	for _, set := range s.tracer.bulk {
		for key, value := range set {
			switch s.random.IntN(6) {
			case 0:
				delete(set, key)
			case 1:
				if value != "" {
					set[key] = string(kernel.AppendNumber(nil, 77))
				}
			case 2:
				set["z"+key[1:]] = value
			}
		}
	}
}
