package policy_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// explained returns a world in which every tier decides about x/web.
func explained() *policy.World {
	friend := label("role", "friend")
	all := store.Selector{}
	dns := &store.NetworkPolicy{Name: name("x/allow-dns"), IsolatesIngress: true, Ingress: []store.PolicyRule{
		{Ports: []store.PolicyPort{{Protocol: store.SCTP}}},
		{Ports: []store.PolicyPort{{Protocol: store.UDP, Port: 53}}},
	}}
	friends := &store.NetworkPolicy{Name: name("x/friends"), IsolatesIngress: true, Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Namespaces: &all, Pods: &friend}}}}}
	rule := func(n string, action store.PolicyAction, port uint16) store.ClusterPolicyRule {
		return store.ClusterPolicyRule{Name: n, Action: action, Peers: []store.PolicyPeer{{Namespaces: &all}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Port: port}}}
	}
	admin := &store.ClusterNetworkPolicy{Name: "monitoring", Tier: store.TierAdmin}
	admin.Ingress = []store.ClusterPolicyRule{rule("", store.ActionAccept, 9090), rule("no-telnet", store.ActionDeny, 23), rule("", store.ActionPass, 80)}
	baseline := &store.ClusterNetworkPolicy{Name: "default", Tier: store.TierBaseline, Egress: []store.ClusterPolicyRule{
		rule("web", store.ActionPass, 80), rule("web", store.ActionDeny, 80), rule("", store.ActionDeny, 25),
	}}
	world := policy.NewWorld()
	world.Apply(changes(dns, friends, admin, baseline, pod("x/web", "10.1.1.2"), pod("y/b", "10.1.2.3"), pod("y/friend", "10.1.2.4", "role", "friend")))
	return world
}

func TestDecisions(t *testing.T) {
	world := explained()
	with := func(src string, protocol store.Protocol, port uint16) policy.Flow {
		return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("10.1.1.2"), Protocol: protocol, Port: port}
	}
	const silent = "egress of y/b allowed: no policy has a say about "
	tests := []struct {
		name            string
		flow            policy.Flow
		egress, ingress string
	}{
		{"denied by isolation", with("10.1.2.3", store.TCP, 8080), silent + "TCP 8080 to 10.1.1.2",
			"ingress of x/web denied: isolated by NetworkPolicy x/allow-dns, x/friends; no rule allows TCP 8080 from 10.1.2.3"},
		{"ICMP", with("10.1.2.3", policytest.ICMP, 0), silent + "ICMP to 10.1.1.2",
			"ingress of x/web denied: isolated by NetworkPolicy x/allow-dns, x/friends; no rule allows ICMP from 10.1.2.3"},
		{"another protocol", with("10.1.2.3", 47, 0), silent + "protocol 47 to 10.1.1.2",
			"ingress of x/web denied: isolated by NetworkPolicy x/allow-dns, x/friends; no rule allows protocol 47 from 10.1.2.3"},
		{"allowed by one", with("10.1.2.3", store.UDP, 53), silent + "UDP 53 to 10.1.1.2",
			"ingress of x/web allowed: rule 1 of NetworkPolicy x/allow-dns allows UDP 53 from 10.1.2.3"},
		{"allowed by two", with("10.1.2.4", store.UDP, 53), "egress of y/friend allowed: no policy has a say about UDP 53 to 10.1.1.2",
			"ingress of x/web allowed: rule 1 of NetworkPolicy x/allow-dns allows UDP 53 from 10.1.2.4; so does x/friends"},
		{"accepted", with("10.1.2.3", store.TCP, 9090), silent + "TCP 9090 to 10.1.1.2",
			"ingress of x/web allowed: rule 0 of ClusterNetworkPolicy monitoring (Admin) accepts TCP 9090 from 10.1.2.3"},
		{"denied by a rule with a name", with("10.1.2.3", store.TCP, 23), silent + "TCP 23 to 10.1.1.2",
			"ingress of x/web denied: rule 1 (no-telnet) of ClusterNetworkPolicy monitoring (Admin) denies TCP 23 from 10.1.2.3"},
		{"passed on", with("10.1.2.3", store.TCP, 80), silent + "TCP 80 to 10.1.1.2",
			"ingress of x/web denied: isolated by NetworkPolicy x/allow-dns, x/friends; no rule allows TCP 80 from 10.1.2.3"},
		{"denied at the other end", with("10.1.2.3", store.TCP, 25),
			"egress of y/b denied: rule 2 of ClusterNetworkPolicy default (Baseline) denies TCP 25 to 10.1.1.2",
			"ingress of x/web denied: isolated by NetworkPolicy x/allow-dns, x/friends; no rule allows TCP 25 from 10.1.2.3"},
		{"no pod", with("192.0.2.1", store.UDP, 53), "egress allowed: no policy has a say about UDP 53 to 10.1.1.2",
			"ingress of x/web allowed: rule 1 of NetworkPolicy x/allow-dns allows UDP 53 from 192.0.2.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict := world.Decide(tt.flow)
			if diff := cmp.Diff([]string{tt.egress, tt.ingress}, []string{verdict.Egress.Explain(tt.flow), verdict.Ingress.Explain(tt.flow)}); diff != "" {
				t.Error(diff)
			}
		})
	}
	d := world.Decide(with("10.1.2.3", store.TCP, 23)).Ingress
	want := policy.Decision{
		Direction: policy.Ingress, Pod: store.PodKey{Node: "node1", Name: name("x/web")},
		Tier: store.TierAdmin, Policies: []string{"monitoring"}, Rule: 1, RuleName: "no-telnet",
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if got, want := d.String(), "ingress of x/web denied: rule 1 (no-telnet) of ClusterNetworkPolicy monitoring (Admin) denies it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
