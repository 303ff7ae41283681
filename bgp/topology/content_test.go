package topology

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

func TestNodesOfAnotherAS(t *testing.T) {
	far := lease(200, `{"AS":65002,"Node":"n200","RouterID":"192.0.3.73"}`)
	p := Make(input(t, "bfd: {}", lease(1, `{"AS":65001,"Node":"n1","RouterID":"192.0.2.2"}`), far, member(201, "")))
	if diff := cmp.Diff([]string{"node n1", "node n200", "node n201"}, names(p)); diff != "" {
		t.Fatal(diff)
	}
	for i, want := range []struct {
		as         uint32
		hops       uint8
		client, at bool
	}{{65001, 0, false, true}, {65002, 64, false, false}, {64512, 0, true, false}} {
		s := p.Instance.Peers[i].Settings
		if s.AS != want.as || s.MultihopTTL != want.hops || (s.Reflector != nil) != want.client || (s.BFD != nil) != want.at {
			t.Errorf("%s: %+v", p.Instance.Peers[i].Name, s)
		}
		if accepts(s.Export, subnetOf(9), false) || !accepts(s.Export, subnetOf(0), true) {
			t.Errorf("%s hears what others announced: %+v", p.Instance.Peers[i].Name, s.Export)
		}
	}
}

func TestWhatNodesTakeFromEachOther(t *testing.T) {
	const text = `
accept: [172.16.0.0/12 le 24]
announce: [{prefix: 10.99.0.0/24, nodes: {names: [other]}}]
aggregate: [{prefix: 10.5.0.0/18}, {prefix: 10.4.0.0/14, to: nodes}]
`
	p := Make(input(t, text, member(1, "")))
	node := p.Instance.Peers[0]
	for _, tc := range []struct {
		prefix string
		in     bool // taken from the node
		own    bool // told when this node originates it
	}{
		{"10.5.1.0/24", true, true},
		{"10.5.1.7/32", true, true},
		{"10.5.0.0/18", true, false}, // an aggregate that is for others
		{"10.4.0.0/14", true, true},
		{"10.99.0.0/24", true, true},
		{"10.99.0.0/25", false, false},
		{"172.16.5.0/24", true, true},
		{"172.16.5.0/25", false, false},
		{"0.0.0.0/0", false, false},
		{"192.168.0.0/16", false, false},
	} {
		if got := accepts(node.Import, prefix(tc.prefix), false); got != tc.in {
			t.Errorf("import of %s: %v", tc.prefix, got)
		}
		if got := accepts(node.Export, prefix(tc.prefix), true); got != tc.own {
			t.Errorf("export of %s: %v", tc.prefix, got)
		}
		if accepts(node.Export, prefix(tc.prefix), false) {
			t.Errorf("%s of others is told", tc.prefix)
		}
	}
	passed := node.Export[len(node.Export)-2]
	want := []bgp.PrefixMatch{
		{Prefix: prefix("172.16.0.0/12"), Min: 12, Max: 24}, {Prefix: prefix("10.99.0.0/24"), Min: 24, Max: 24}, {Prefix: prefix("10.4.0.0/14"), Min: 14, Max: 14},
	}
	if diff := cmp.Diff(bgp.Rule{Prefixes: want, External: true}, passed, same0); diff != "" {
		t.Error(diff)
	}
}

func TestPeers(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(`
bfd: {}
nodes: [{match: {names: [n0]}, reflector: {clusterID: 9.9.9.9}}]
peers:
- {name: rack1, as: 65000, address: 192.0.2.254, nodes: {labels: {rack: r1}}, passwordFile: DIR/key}
- {name: rack2, as: 65000, address: 192.0.2.254, nodes: {labels: {rack: r2}}}
- {name: twice, as: 65000, address: 192.0.2.254}
- {name: nokey, as: 65000, address: 192.0.2.253, passwordFile: DIR/missing}
- {name: self, as: 65000, address: 192.0.2.1}
- {name: client, as: 64512, address: 192.0.2.250, reflectorClient: true, multihopTTL: 5, bfd: {enabled: false}}
- {name: stranger, as: 65000, address: 192.0.2.249, reflectorClient: true}
- {name: remote, as: 65000, address: 203.0.113.1, multihopTTL: 5}
- {name: inner, as: 64512, address: 203.0.113.2}
- {name: node, as: 64512, address: 192.0.2.9}
- {name: hosts, as: 65000, range: 198.51.100.0/24}
`, "DIR", dir)
	in := input(t, text, member(8, ""))
	in.Passwords, _ = config.ReadPasswords(in.Config.PasswordFiles("n0", in.Node.Labels))
	p := Make(in)
	got := map[string]string{}
	for _, peer := range p.Instance.Peers {
		got[peer.Name] = fmt.Sprint(peer.Password, " ", peer.MultihopTTL, " ", peer.BFD != nil, " ", peer.Reflector)
	}
	want := map[string]string{
		"rack1":  "geheim 0 true <nil>",
		"client": " 0 false &{9.9.9.9}",
		"remote": " 5 false <nil>",
		"inner":  " 0 false <nil>",
		"node":   " 0 true <nil>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(p.Instance.Ranges) != 1 || p.Instance.Ranges[0].BFD != nil || p.Instance.Ranges[0].Prefix != prefix("198.51.100.0/24") {
		t.Errorf("ranges: %+v", p.Instance.Ranges)
	}
	const wantRejects = `10.5.8.0-24: address 192.0.2.9 is that of node in the BGP configuration, which is used
peer nokey: password file DIR/missing could not be read
peer self: 192.0.2.1 is an address of this node
peer stranger: reflectorClient: its AS is 65000 and this node's 64512; only a neighbour of the same AS can be a client
peer twice: 192.0.2.254 is the address of peer rack1 too; choose their nodes so that no node has both`
	if diff := cmp.Diff(strings.ReplaceAll(wantRejects, "DIR", dir), rejects(p)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutItsPasswordNoSessionWithNodesIsHeld(t *testing.T) {
	p := Make(input(t, "passwordFile: /nowhere", member(1, "")))
	if len(p.Instance.Peers) != 0 || rejects(p) != "sessions with nodes: password file /nowhere could not be read" {
		t.Errorf("peers %v, rejects %s", names(p), rejects(p))
	}
}

func TestAnnouncements(t *testing.T) {
	in := input(t, `
podSubnets: {communities: ["64512:1"], localPref: 150, prepend: 2}
announce:
- {prefix: 10.99.0.0/24, med: 7, largeCommunities: ["1:2:3"]}
- {prefix: 10.98.0.0/24, nodes: {names: [other]}}
- {prefix: 10.99.0.0/24}
- {prefix: "fd00:99::/64"}
services: {loadBalancerIPs: [203.0.113.0/24], communities: ["64512:3"], localPref: 90}
aggregate:
- {prefix: 10.5.0.0/16, summaryOnly: true, communities: ["64512:2"]}
- {prefix: 10.6.0.0/16}
- {prefix: 10.99.0.0/20, to: nodes}
- {prefix: 203.0.113.0/24, nodes: {names: [other]}}
peers:
- name: tor
  as: 65000
  address: 192.0.2.254
  export:
  - {prefixes: [10.5.0.0/16 le 24], action: accept}
  - {prefixes: [203.0.113.2/32], action: reject}
`)
	in.Services = loadBalancers("203.0.113.1/32", "203.0.113.2/32")
	p := Make(in)
	med := uint32(7)
	want := []bgp.Announcement{
		{Prefix: prefix("10.5.0.0/16"), NextHop: addr("192.0.2.1"), Communities: []bgp.Community{64512<<16 | 2}, Aggregate: true, Origin: bgp.OriginAggregate},
		{Prefix: prefix("10.5.0.0/24"), NextHop: addr("192.0.2.1"), Communities: []bgp.Community{64512<<16 | 1}, LocalPref: 150, Origin: bgp.OriginPodSubnet},
		{Prefix: prefix("10.99.0.0/20"), NextHop: addr("192.0.2.1"), Aggregate: true, Origin: bgp.OriginAggregate},
		{Prefix: prefix("10.99.0.0/24"), NextHop: addr("192.0.2.1"), MED: &med, LargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}, Origin: bgp.OriginConfig},
		{Prefix: prefix("203.0.113.1/32"), NextHop: addr("192.0.2.1"), Communities: []bgp.Community{64512<<16 | 3}, LocalPref: 90, Translated: true, Origin: bgp.OriginService},
		{Prefix: prefix("203.0.113.2/32"), NextHop: addr("192.0.2.1"), Communities: []bgp.Community{64512<<16 | 3}, LocalPref: 90, Translated: true, Origin: bgp.OriginService},
	}
	if diff := cmp.Diff(want, p.Instance.Announcements, same0); diff != "" {
		t.Error(diff)
	}
	const wantRejects = `announce 10.99.0.0/24: this node announces that prefix already
announce fd00:99::/64: this node has no address of the prefix's family that could be its next hop`
	if diff := cmp.Diff(wantRejects, rejects(p)); diff != "" {
		t.Error(diff)
	}
	tor := p.Instance.Peers[0].Export
	for text, want := range map[string]bool{
		"10.5.0.0/16": true, "10.5.0.0/24": false, "10.99.0.0/24": true, "10.99.0.0/20": false, "203.0.113.1/32": true, "203.0.113.2/32": false,
	} {
		if got := accepts(tor, prefix(text), true); got != want {
			t.Errorf("%s of this node is told to the peer: %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{"10.5.1.0/24", "10.99.0.0/24", "0.0.0.0/0"} {
		if accepts(tor, prefix(text), false) {
			t.Errorf("%s of others is told to the peer", text)
		}
	}
	prepends := tor[len(tor)-3]
	if prepends.Prepend != 2 || !prepends.Originated || len(prepends.Prefixes) != 1 || prepends.Prefixes[0].Prefix != subnetOf(0) {
		t.Errorf("no prepend for the pod subnet: %+v", tor)
	}
}
