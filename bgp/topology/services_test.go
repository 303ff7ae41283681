package topology

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
)

func loadBalancers(prefixes ...string) (all []bgp.ServiceAddress) {
	for _, p := range prefixes {
		all = append(all, bgp.ServiceAddress{Prefix: prefix(p), Kind: bgp.LoadBalancerIP})
	}
	return all
}

// saidOf returns the prefixes that a plan announces because of one origin.
func saidOf(p Plan, origin bgp.Origin) (all []string) {
	for _, a := range p.Instance.Announcements {
		if a.Origin == origin {
			all = append(all, a.Prefix.String())
		}
	}
	return all
}

func TestServices(t *testing.T) {
	everything := []bgp.ServiceAddress{
		{Prefix: prefix("10.96.0.7/32"), Kind: bgp.ClusterIP}, {Prefix: prefix("10.96.0.8/32"), Kind: bgp.ClusterIP, Local: true},
		{Prefix: prefix("198.51.100.7/32"), Kind: bgp.ExternalIP}, {Prefix: prefix("203.0.113.7/32"), Kind: bgp.LoadBalancerIP, Local: true},
		{Prefix: prefix("203.0.113.7/32"), Kind: bgp.ExternalIP},
	}
	for _, tc := range []struct {
		name, text string
		services   []bgp.ServiceAddress
		want       []string
		rejects    string
	}{
		{"nothing by default", "", everything, nil, ""},
		{"one kind", "services: {externalIPs: true}", everything, []string{"198.51.100.7/32", "203.0.113.7/32"}, ""},
		{"all kinds, each address once", "services: {clusterIPs: true, externalIPs: true, loadBalancerIPs: true}", everything,
			[]string{"10.96.0.7/32", "10.96.0.8/32", "198.51.100.7/32", "203.0.113.7/32"}, ""},
		{"Local", "services: {clusterIPs: true, loadBalancerIPs: true, trafficPolicy: local}", everything, []string{"10.96.0.8/32", "203.0.113.7/32"}, ""},
		{"this node", "services: {clusterIPs: true, nodes: {labels: {rack: r1}}}", everything, []string{"10.96.0.7/32", "10.96.0.8/32"}, ""},
		{"other nodes", "services: {clusterIPs: true, nodes: {names: [other]}}", everything, nil, ""},
		{"announced anyway", "services: {externalIPs: true}\nannounce: [{prefix: 198.51.100.7/32}]", everything, []string{"203.0.113.7/32"}, ""},
		{
			"addresses of others", "services: {loadBalancerIPs: true}\npeers: [{name: tor, as: 65000, address: 192.0.2.254}]",
			loadBalancers("192.0.2.1/32", "192.0.2.2/32", "192.0.2.254/32", "10.5.7.7/32", "2001:db8::1/128", "192.0.2.77/32"), []string{"192.0.2.77/32"},
			`Service 10.5.7.7/32: that is an address of the network of pods, which would lose its traffic
Service 192.0.2.1/32: that is an address of this node, which would lose its traffic
Service 192.0.2.2/32: that is an address of a node, which would lose its traffic
Service 192.0.2.254/32: that is an address of peer tor, which would lose its traffic
Service 2001:db8::1/128: that is an address of this node, which would lose its traffic`,
		},
		{"of a family without a next hop", "services: {loadBalancerIPs: true}", loadBalancers("2001:db8:7::7/128"), nil,
			"Service 2001:db8:7::7/128: this node has no address of the prefix's family that could be its next hop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(t, tc.text, member(1, ""))
			in.Services = tc.services
			p := Make(in)
			if got := saidOf(p, bgp.OriginService); !slices.Equal(got, tc.want) {
				t.Errorf("announces %v, want %v", got, tc.want)
			}
			for _, a := range p.Instance.Announcements {
				if a.Translated != (a.Origin == bgp.OriginService && !prefix("10.96.0.0/16").Contains(a.Prefix.Addr())) {
					t.Errorf("%v, of origin %s: translated or dropped: %v", a.Prefix, a.Origin, a.Translated)
				}
			}
			if diff := cmp.Diff(tc.rejects, rejects(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A router hears of Services by default, a node only when it is told to accept them: it translates packets to Services itself.
func TestWhoHearsOfServices(t *testing.T) {
	for _, tc := range []struct {
		text string
		node bool
	}{{"", false}, {"accept: [203.0.113.0/24 le 32]", true}} {
		in := input(t, tc.text+"\nservices: {loadBalancerIPs: true}\npeers: [{name: tor, as: 65000, address: 192.0.2.254}]", member(1, ""))
		in.Services = loadBalancers("203.0.113.7/32")
		for _, peer := range Make(in).Instance.Peers {
			want := peer.Name == "tor" || tc.node
			if got := accepts(peer.Export, prefix("203.0.113.7/32"), true); got != want {
				t.Errorf("with %q, %s hears of it: %v, want %v", tc.text, peer.Name, got, want)
			}
			if got := accepts(peer.Import, prefix("203.0.113.7/32"), false); peer.Name != "tor" && got != want {
				t.Errorf("with %q, it is taken from %s: %v, want %v", tc.text, peer.Name, got, want)
			}
		}
	}
}

// Addresses of Services stay reachable for the node itself where an aggregate stands for them, whether they are announced or not.
func TestAggregatesOfServicesAreNoBlackholes(t *testing.T) {
	in := input(t, "announce: [{prefix: 10.99.0.0/24}, {prefix: 10.98.0.0/24}]\naggregate: [{prefix: 10.99.0.0/16}, {prefix: 10.98.0.0/16}]")
	in.Services = []bgp.ServiceAddress{{Prefix: prefix("10.99.7.7/32"), Kind: bgp.ClusterIP}}
	for _, a := range Make(in).Instance.Announcements {
		if a.Origin == bgp.OriginAggregate && a.Aggregate != (a.Prefix == prefix("10.98.0.0/16")) {
			t.Errorf("%v: packets that fit nothing are dropped: %v", a.Prefix, a.Aggregate)
		}
	}
}
