package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

func name(text string) store.ObjectName {
	namespace, n, _ := strings.Cut(text, "/")
	return store.ObjectName{Namespace: namespace, Name: n}
}

// pod returns a pod on node1 with addresses that spaces divide, and labels as key, value, key, value.
func pod(text string, addrs string, labels ...string) *store.Pod {
	p := &store.Pod{Name: name(text), Node: "node1", Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		p.Labels[labels[i]] = labels[i+1]
	}
	for _, addr := range strings.Fields(addrs) {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(addr))
	}
	return p
}

func on(node string, p *store.Pod) *store.Pod {
	p.Node = node
	return p
}

func label(key, value string) store.Selector {
	return store.NewSelector(store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
}

// changes puts objects together, in any order.
func changes(objects ...any) store.PolicyChanges {
	c := store.PolicyChanges{
		Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: map[string]*store.ClusterNetworkPolicy{},
		Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{},
	}
	for _, object := range objects {
		switch o := object.(type) {
		case *store.NetworkPolicy:
			c.Policies[o.Name] = o
		case *store.ClusterNetworkPolicy:
			c.ClusterPolicies[o.Name] = o
		case *store.Namespace:
			c.Namespaces[o.Name] = o
		case *store.Pod:
			c.Pods[o.Key()] = o
		}
	}
	return c
}

func namespace(n string, labels ...string) *store.Namespace {
	all := map[string]string{store.NamespaceNameLabel: n}
	for i := 0; i < len(labels); i += 2 {
		all[labels[i]] = labels[i+1]
	}
	return &store.Namespace{Name: n, Labels: all}
}

func tcp(src, dst string, port uint16) policy.Flow {
	return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: store.TCP, Port: port}
}

// closed isolates all pods of x in both directions but for what comes from pods with role=friend in any namespace with team=good.
func closed() *store.NetworkPolicy {
	good, friend := label("team", "good"), label("role", "friend")
	rule := store.PolicyRule{Peers: []store.PolicyPeer{{Namespaces: &good, Pods: &friend}}}
	return &store.NetworkPolicy{Name: name("x/closed"), IsolatesIngress: true, IsolatesEgress: true, Ingress: []store.PolicyRule{rule}}
}

func TestUndeniable(t *testing.T) {
	world := policy.NewWorld()
	everybody := store.Selector{}
	deny := &store.ClusterNetworkPolicy{Name: "deny", Tier: store.TierAdmin}
	deny.Ingress = []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: []store.PolicyPeer{{Namespaces: &everybody}, {Block: netip.MustParsePrefix("0.0.0.0/0")}}}}
	deny.Egress = deny.Ingress
	world.Apply(changes(pod("x/a", "10.1.1.2 fd00::2"), pod("x/b", "10.1.1.3"), closed(), deny))
	fromNode := tcp("10.1.1.1", "10.1.1.2", 80)
	fromNode.FromNode = true
	ping := policy.Flow{Src: netip.MustParseAddr("10.1.1.2"), Dst: netip.MustParseAddr("10.1.1.2"), Protocol: policytest.ICMP}
	tests := []struct {
		name string
		flow policy.Flow
		want bool
	}{
		{"its own IPv4 address", tcp("10.1.1.2", "10.1.1.2", 80), true},
		{"its own IPv6 address", tcp("fd00::2", "fd00::2", 80), true},
		{"its own address, ICMP", ping, true},
		{"another pod", tcp("10.1.1.2", "10.1.1.3", 80), false},
		{"from its node", fromNode, true},
		{"from the same address that is not its node's", tcp("10.1.1.1", "10.1.1.2", 80), false},
		{"to its node", tcp("10.1.1.2", "10.1.1.1", 80), false},
		{"IPv4 in IPv6 is IPv4", tcp("::ffff:10.1.1.2", "::ffff:10.1.1.3", 80), false},
		{"nobody's addresses", tcp("192.0.2.1", "192.0.2.2", 80), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := world.Decide(tt.flow); got.Allowed() != tt.want {
				t.Errorf("%v, want allowed %v", got, tt.want)
			}
		})
	}
}

// What comes, goes and changes is felt at once. The pod's own node tells its address; a pod in its node's network, or one that ended, is none.
func TestLive(t *testing.T) {
	world := policy.NewWorld()
	flow := tcp("10.1.2.2", "10.1.1.2", 80)
	friend, good := pod("y/friend", "10.1.2.2 fd00:2::2", "role", "friend"), namespace("y", "team", "good")
	steps := []struct {
		name  string
		apply store.PolicyChanges
		want  bool
	}{
		{"nothing", store.PolicyChanges{}, true},
		{"the pod is isolated", changes(closed(), pod("x/a", "10.1.1.2")), false},
		{"the peer is known, its namespace is not", changes(friend), false},
		{"its namespace has the label", changes(good), true},
		{"the namespace loses it", changes(namespace("y")), false},
		{"and gets it again", changes(good), true},
		{"the peer has another label", changes(pod("y/friend", "10.1.2.2", "role", "foe")), false},
		{"the peer is a friend again", changes(friend), true},
		{"the peer has ended", store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{friend.Key(): nil}}, false},
		{"it has a successor without an address", changes(pod("y/next", "", "role", "friend")), false},
		{"the successor gets the address", changes(pod("y/next", "10.1.2.2", "role", "friend")), true},
		{"the successor gets another", changes(pod("y/next", "10.1.2.3", "role", "friend")), false},
		{"the policy goes", store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{name("x/closed"): nil}}, true},
		{"the policy comes again", changes(closed()), false},
		{"the isolated pod ends, too", store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{pod("x/a", "").Key(): nil}}, true},
		{"and comes again", changes(pod("x/a", "10.1.1.2")), false},
		{"a reset without anything", store.PolicyChanges{Reset: true}, true},
	}
	for _, step := range steps {
		world.Apply(step.apply)
		if got := world.Decide(flow); got.Allowed() != step.want {
			t.Fatalf("%s: %v, want allowed %v", step.name, got, step.want)
		}
	}
}

// Of several pods with one address, each has to be allowed, whatever the order in which they became known.
func TestClaimants(t *testing.T) {
	friend, foe := pod("y/friend", "10.1.2.2", "role", "friend"), pod("y/foe", "10.1.2.2", "role", "foe")
	base := []any{closed(), pod("x/a", "10.1.1.2"), namespace("y", "team", "good")}
	foes := label("role", "foe")
	all := store.Selector{}
	deny := &store.ClusterNetworkPolicy{Name: "foes", Tier: store.TierAdmin, Namespaces: label("team", "good")}
	deny.Ingress = []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: []store.PolicyPeer{{Namespaces: &all, Pods: &foes}}}}
	tests := []struct {
		name string
		flow policy.Flow
		pods []any
		want bool
	}{
		{"one that may", tcp("10.1.2.2", "10.1.1.2", 80), []any{friend}, true},
		{"one that may not", tcp("10.1.2.2", "10.1.1.2", 80), []any{foe}, false},
		{"one of each", tcp("10.1.2.2", "10.1.1.2", 80), []any{friend, foe}, false},
		{"two that may", tcp("10.1.2.2", "10.1.1.2", 80), []any{friend, on("node9", pod("y/friend", "10.1.2.2", "role", "friend"))}, true},
		{"one that is denied by a ClusterNetworkPolicy and one that is not", tcp("10.1.2.2", "10.1.3.3", 80), []any{friend, foe, deny, pod("y/server", "10.1.3.3")}, false},
		{"the server's address is two pods', of which one is isolated", tcp("192.0.2.1", "10.1.1.2", 80), []any{pod("y/b", "10.1.1.2")}, false},
		{"the client's address is two pods', of which one is isolated", tcp("10.1.1.2", "192.0.2.1", 80), []any{pod("y/b", "10.1.1.2")}, false},
		{"two that no policy is about", tcp("10.1.3.3", "192.0.2.1", 80), []any{pod("y/b", "10.1.3.3"), pod("y/c", "10.1.3.3")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			forth, back := policy.NewWorld(), policy.NewWorld()
			forth.Apply(changes(base...))
			back.Apply(changes(base...))
			for i := range tt.pods {
				forth.Apply(changes(tt.pods[i]))
				back.Apply(changes(tt.pods[len(tt.pods)-1-i]))
			}
			got, other := forth.Decide(tt.flow), back.Decide(tt.flow)
			if got.Allowed() != tt.want || other.Allowed() != tt.want {
				t.Errorf("%v and in the other order %v, want allowed %v", got, other, tt.want)
			}
			if got.Ingress.String() != other.Ingress.String() || got.Egress.String() != other.Egress.String() {
				t.Errorf("%v, but in the other order %v", got, other)
			}
		})
	}
}

func TestUnknownNamespace(t *testing.T) {
	world := policy.NewWorld()
	byName, without := label(store.NamespaceNameLabel, "y"), store.NewSelector(store.Requirement{Key: "team", Operator: store.SelectorExists})
	p := &store.NetworkPolicy{Name: name("x/named"), IsolatesIngress: true}
	p.Ingress = []store.PolicyRule{{Peers: []store.PolicyPeer{{Namespaces: &byName}, {Namespaces: &without}}}}
	world.Apply(changes(p, pod("x/a", "10.1.1.2"), pod("y/b", "10.1.1.3"), pod("z/c", "10.1.1.4")))
	if got := world.Decide(tcp("10.1.1.3", "10.1.1.2", 80)); !got.Allowed() {
		t.Errorf("a namespace that is not known does not have its name: %v", got)
	}
	if got := world.Decide(tcp("10.1.1.4", "10.1.1.2", 80)); got.Allowed() {
		t.Errorf("a namespace that is not known has other labels: %v", got)
	}
}

// A policy without a direction isolates nothing. The API knows none, as it sets a default.
func TestNoDirection(t *testing.T) {
	world := policy.NewWorld()
	world.Apply(changes(&store.NetworkPolicy{Name: name("x/none")}, pod("x/a", "10.1.1.2")))
	if got := world.Decide(tcp("192.0.2.1", "10.1.1.2", 80)); !got.Allowed() {
		t.Errorf("%v, want allowed", got)
	}
}
