package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

func size() policytest.Size {
	return policytest.Size{
		Nodes: []policytest.Node{
			{Name: "node1", IPv4: netip.MustParsePrefix("10.1.1.0/24"), IPv6: netip.MustParsePrefix("fd00:1:1::/64")},
			{Name: "node2", IPv4: netip.MustParsePrefix("10.1.2.0/24"), IPv6: netip.MustParsePrefix("fd00:1:2::/64")},
		},
		Namespaces: 3, Pods: 10, Policies: 5, ClusterPolicies: 3,
		Disputed: 0.1, Silent: 0.1, Anywhere: 0.2,
	}
}

// event tells one object's state; those of one object stay in their order, as a source keeps it.
type event struct {
	object any
	change store.PolicyChanges
}

// events divides changes into those of single objects. Maps give them in any order, which random sorts out.
func events(c store.PolicyChanges) []event {
	var all []event
	for k, v := range c.Policies {
		all = append(all, event{k, store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{k: v}}})
	}
	for k, v := range c.ClusterPolicies {
		all = append(all, event{"cluster policy " + k, store.PolicyChanges{ClusterPolicies: map[string]*store.ClusterNetworkPolicy{k: v}}})
	}
	for k, v := range c.Namespaces {
		all = append(all, event{"namespace " + k, store.PolicyChanges{Namespaces: map[string]*store.Namespace{k: v}}})
	}
	for k, v := range c.Pods {
		all = append(all, event{k, store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{k: v}}})
	}
	return all
}

// shuffled returns the events in another order, some of them twice, with those of each object in their own order.
func shuffled(random *rand.Rand, all []event) []event {
	queues, places := map[any][]event{}, make([]any, 0, len(all))
	for _, e := range all {
		queues[e.object] = append(queues[e.object], e)
		places = append(places, e.object)
	}
	random.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	var out []event
	for _, object := range places {
		next := queues[object][0]
		queues[object] = queues[object][1:]
		for range 1 + random.IntN(2) {
			out = append(out, next)
		}
	}
	return out
}

// A thousand random worlds: told as a whole, and told as all that happened from the beginning on, in another order, divided and repeated, they decide the
// same for the same reasons.
func TestOrderDoesNotMatter(t *testing.T) {
	allowed, denied, tiers := 0, 0, map[store.PolicyTier]int{}
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 3))
		cluster := policytest.Generate(random, size())
		all := events(cluster.Changes())
		for range 10 {
			all = append(all, events(cluster.Change())...)
		}
		whole, parts := policy.NewWorld(), policy.NewWorld()
		whole.Apply(cluster.Changes())
		for _, e := range shuffled(random, all) {
			parts.Apply(e.change)
		}
		for _, flow := range cluster.Flows(10) {
			want, got := whole.Decide(flow), parts.Decide(flow)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d: %v: %s", seed, flow, diff)
			}
			if want.Allowed() {
				allowed++
			} else {
				denied++
			}
			tiers[want.Egress.Tier]++
			tiers[want.Ingress.Tier]++
		}
	}
	for _, tier := range []store.PolicyTier{"", store.TierAdmin, policy.TierNetworkPolicy, store.TierBaseline} {
		if tiers[tier] < 100 {
			t.Errorf("tier %q decided %d times only", tier, tiers[tier])
		}
	}
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d flows were allowed and %d denied: the worlds are too much alike", allowed, denied)
	}
}

// One more rule of a NetworkPolicy never closes anything.
func TestRulesOnlyOpen(t *testing.T) {
	for seed := range uint64(300) {
		cluster := policytest.Generate(rand.New(rand.NewPCG(seed, 4)), size())
		before, after := policy.NewWorld(), policy.NewWorld()
		before.Apply(cluster.Changes())
		after.Apply(cluster.Changes())
		for _, p := range cluster.Policies {
			more := *p
			more.Ingress = append([]store.PolicyRule{{Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 1, EndPort: 1000}}}}, p.Ingress...)
			if p.IsolatesIngress {
				after.Apply(changes(&more))
			}
		}
		for _, flow := range cluster.Flows(20) {
			if was, is := before.Decide(flow), after.Decide(flow); was.Allowed() && !is.Allowed() {
				t.Fatalf("seed %d: %v was allowed (%v), is denied (%v)", seed, flow, was, is)
			}
		}
	}
}
