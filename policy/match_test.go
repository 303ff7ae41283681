package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

func TestPortRanges(t *testing.T) {
	web := &store.Pod{Ports: []store.PodPort{
		{Name: "http", Protocol: store.TCP, Port: 8080}, {Name: "dns", Protocol: store.UDP, Port: 53}, {Name: "dns", Protocol: store.TCP, Port: 5353},
	}}
	tests := []struct {
		name string
		port store.PolicyPort
		pod  *store.Pod
		want []policy.PortRange
	}{
		{"a number", store.PolicyPort{Protocol: store.TCP, Port: 80}, web, []policy.PortRange{{Protocol: store.TCP, First: 80, Last: 80}}},
		{"a number, no pod", store.PolicyPort{Protocol: store.UDP, Port: 80}, nil, []policy.PortRange{{Protocol: store.UDP, First: 80, Last: 80}}},
		{"a range", store.PolicyPort{Protocol: store.TCP, Port: 80, EndPort: 90}, web, []policy.PortRange{{Protocol: store.TCP, First: 80, Last: 90}}},
		{"a range of one", store.PolicyPort{Protocol: store.TCP, Port: 80, EndPort: 80}, web, []policy.PortRange{{Protocol: store.TCP, First: 80, Last: 80}}},
		{"a range to the end", store.PolicyPort{Protocol: store.TCP, Port: 1, EndPort: 65535}, nil, []policy.PortRange{{Protocol: store.TCP, First: 1, Last: 65535}}},
		{"the whole protocol", store.PolicyPort{Protocol: store.SCTP}, web, []policy.PortRange{{Protocol: store.SCTP, First: 0, Last: 65535}}},
		{"a name", store.PolicyPort{Protocol: store.TCP, Name: "http"}, web, []policy.PortRange{{Protocol: store.TCP, First: 8080, Last: 8080}}},
		{"a name of another protocol", store.PolicyPort{Protocol: store.UDP, Name: "http"}, web, nil},
		{"a name of one of two protocols", store.PolicyPort{Protocol: store.UDP, Name: "dns"}, web, []policy.PortRange{{Protocol: store.UDP, First: 53, Last: 53}}},
		{"a name of any protocol", store.PolicyPort{Name: "dns"}, web,
			[]policy.PortRange{{Protocol: store.UDP, First: 53, Last: 53}, {Protocol: store.TCP, First: 5353, Last: 5353}}},
		{"a name that the pod has not", store.PolicyPort{Protocol: store.TCP, Name: "ssh"}, web, nil},
		{"a name, no pod", store.PolicyPort{Protocol: store.TCP, Name: "http"}, nil, nil},
		{"nothing at all", store.PolicyPort{}, web, nil},
		{"a protocol without ports", store.PolicyPort{Protocol: 1}, web, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, policy.PortRanges(tt.port, tt.pod)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMatchesPeer(t *testing.T) {
	friend, good := label("role", "friend"), label("team", "good")
	everything := store.NewSelector()
	block := func(text string, except ...string) store.PolicyPeer {
		p := store.PolicyPeer{Block: netip.MustParsePrefix(text)}
		for _, e := range except {
			p.Except = append(p.Except, netip.MustParsePrefix(e))
		}
		return p
	}
	inY := policy.Peer{Addr: netip.MustParseAddr("10.1.2.2"), Pod: pod("y/a", "10.1.2.2", "role", "friend"), Namespace: map[string]string{"team": "good"}}
	stranger := policy.Peer{Addr: netip.MustParseAddr("192.0.2.7")}
	six := policy.Peer{Addr: netip.MustParseAddr("2001:db8::7")}
	tests := []struct {
		name      string
		term      store.PolicyPeer
		namespace string
		peer      policy.Peer
		want      bool
	}{
		{"pods of the own namespace", store.PolicyPeer{Pods: &friend}, "y", inY, true},
		{"pods of another namespace", store.PolicyPeer{Pods: &friend}, "x", inY, false},
		{"all pods of the own namespace", store.PolicyPeer{Pods: &everything}, "y", inY, true},
		{"namespaces", store.PolicyPeer{Namespaces: &good}, "x", inY, true},
		{"namespaces, not those", store.PolicyPeer{Namespaces: &friend}, "y", inY, false},
		{"namespaces and pods", store.PolicyPeer{Namespaces: &good, Pods: &friend}, "x", inY, true},
		{"namespaces, but not pods", store.PolicyPeer{Namespaces: &good, Pods: &good}, "x", inY, false},
		{"all pods are not all addresses", store.PolicyPeer{Namespaces: &everything, Pods: &everything}, "x", stranger, false},
		{"a block around a pod", block("10.1.2.0/24"), "x", inY, true},
		{"a block beside a pod", block("10.1.3.0/24"), "x", inY, false},
		{"a block around a stranger", block("192.0.2.0/24"), "x", stranger, true},
		{"an exception", block("192.0.2.0/24", "192.0.2.4/30"), "x", stranger, false},
		{"an exception of others", block("192.0.2.0/24", "192.0.2.8/30"), "x", stranger, true},
		{"all of IPv4 is not IPv6", block("0.0.0.0/0"), "x", six, false},
		{"all of IPv6 is not IPv4", block("::/0"), "x", stranger, false},
		{"all of IPv6", block("::/0"), "x", six, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := policy.MatchesPeer(tt.term, tt.namespace, tt.peer); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestSelect(t *testing.T) {
	cluster := func(n string, tier store.PolicyTier, priority int) *store.ClusterNetworkPolicy {
		all := store.Selector{}
		return &store.ClusterNetworkPolicy{Name: n, Tier: tier, Priority: priority,
			Ingress: []store.ClusterPolicyRule{{Action: store.ActionPass, Peers: []store.PolicyPeer{{Namespaces: &all}}}}}
	}
	network := func(n string, in, out bool) *store.NetworkPolicy {
		return &store.NetworkPolicy{Name: name(n), IsolatesIngress: in, IsolatesEgress: out}
	}
	policies := []*store.NetworkPolicy{network("x/z", true, false), network("x/a", true, true), network("x/out", false, true), network("y/a", true, true)}
	clusterPolicies := []*store.ClusterNetworkPolicy{
		cluster("b", store.TierAdmin, 9), cluster("a", store.TierAdmin, 10), cluster("a9", store.TierAdmin, 9),
		cluster("b1", store.TierBaseline, 1), cluster("b0", store.TierBaseline, 0), {Name: "no-rules", Tier: store.TierAdmin},
	}
	names := func(c policy.Chain) []string {
		var all []string
		for _, p := range c.Admin {
			all = append(all, p.Name)
		}
		for _, p := range c.Isolating {
			all = append(all, p.Name.String())
		}
		for _, p := range c.Baseline {
			all = append(all, p.Name)
		}
		return all
	}
	for range 2 {
		in := policy.Select(policy.Ingress, pod("x/a", ""), nil, slices.Values(policies), slices.Values(clusterPolicies))
		if diff := cmp.Diff([]string{"a9", "b", "a", "x/a", "x/z", "b0", "b1"}, names(in)); diff != "" {
			t.Error(diff)
		}
		out := policy.Select(policy.Egress, pod("x/a", ""), nil, slices.Values(policies), slices.Values(clusterPolicies))
		if diff := cmp.Diff([]string{"x/a", "x/out"}, names(out)); diff != "" {
			t.Error(diff)
		}
		none := policy.Select(policy.Egress, pod("z/a", ""), nil, slices.Values(policies), slices.Values(clusterPolicies))
		if !none.Empty() || in.Empty() {
			t.Errorf("empty: %v, want no policies; %v", none, in)
		}
		slices.Reverse(policies)
		slices.Reverse(clusterPolicies)
	}
}
