package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
)

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// healthy is a node with everything that a node may have, and nothing wrong.
func healthy() api.NodeStatus {
	return api.NodeStatus{
		Node: "a", Version: "v1", Backend: "bgp", Started: now.Add(-time.Hour),
		Datastore: api.DatastoreStatus{Kind: "etcd"},
		Subnets:   []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")},
		Uplink:    "eth0", UplinkMTU: 1500, PodMTU: 1450,
		Peers:     api.PeerStatus{LastSync: now.Add(-6 * time.Minute), Peers: 2, Desired: 12, Programmed: 12, Repaired: 4},
		BGP:       &api.BGPStatus{Sessions: 2, Established: 2},
		Services:  &api.LoopStatus{LastSync: now.Add(-time.Hour)},
		Policies:  &api.LoopStatus{LastSync: now.Add(-time.Hour), WaitingSeconds: 1},
		Pods:      3,
		Addresses: []api.RangeUse{{Range: "10.244.1.1-10.244.1.254", Used: 3, Size: 253}},
		Conntrack: api.ConntrackUse{Used: 100, Max: 65536},
	}
}

// told is what a Finding says, without the mend.
func told(all []Finding) []string {
	lines := []string{}
	for _, f := range all {
		line := f.Severity.String() + " " + f.Node + ": " + f.What
		lines = append(lines, line)
	}
	return lines
}

// Each rule, for one node that is healthy but for one thing.
func TestRules(t *testing.T) {
	type node = api.NodeStatus
	tests := []struct {
		name string
		harm func(*node)
		want []string
	}{
		{"healthy", func(*node) {}, nil},
		{"no BGP, Services, policies, addresses", func(s *node) { s.BGP, s.Services, s.Policies, s.Addresses = nil, nil, nil, nil }, nil},
		{"nothing is known", func(s *node) { *s = node{Node: "a", Version: "v1"} }, nil},
		{"the datastore is away", func(s *node) {
			s.Datastore.Error, s.NotReady = "no answer for 4s", []string{"datastore: no answer for 4s"}
		}, []string{"degraded a: the datastore (etcd) does not answer: no answer for 4s"}},
		{"not ready for something else", func(s *node) { s.NotReady = []string{"lease 10.1.1.0/24: lost"} }, []string{"broken a: not ready: lease 10.1.1.0/24: lost"}},
		{"the datastore and something else", func(s *node) {
			s.Datastore.Error, s.NotReady = "no answer", []string{"lease 10.1.1.0/24: lost", "datastore: no answer"}
		}, []string{"broken a: not ready: lease 10.1.1.0/24: lost", "degraded a: the datastore (etcd) does not answer: no answer"}},
		{"it starts", func(s *node) { s.Started, s.NotReady = now.Add(-5*time.Second), []string{"starting"} },
			[]string{"degraded a: not ready yet, 5s after the daemon's start: starting"}},
		{"it waits for BGP at first", func(s *node) {
			s.Started, s.NotReady = now.Add(-29*time.Second), []string{"waiting for what BGP peers have to say"}
			s.BGP.Established = 0
		}, []string{"degraded a: not ready yet, 29s after the daemon's start: waiting for what BGP peers have to say"}},
		{"it starts for too long", func(s *node) { s.Started, s.NotReady = now.Add(-30*time.Second), []string{"starting"} }, []string{"broken a: not ready: starting"}},
		{"objects are missing", func(s *node) {
			s.Peers.Programmed, s.Peers.Error = 10, "add route 10.244.2.0/24: no such device"
			s.NotReady = []string{"add route 10.244.2.0/24: no such device"}
		}, []string{"broken a: 2 of 12 links, routes, neighbours and forwarding entries are not in the kernel (add route 10.244.2.0/24: no such device)"}},
		{"objects are missing for several reasons", func(s *node) {
			s.Peers.Programmed, s.Peers.Error = 10, "add route 10.244.2.0/24: no such device\nadd route 10.244.3.0/24: no such device"
			s.NotReady = []string{"add route 10.244.2.0/24: no such device", "add route 10.244.3.0/24: no such device"}
		}, []string{"broken a: 2 of 12 links, routes, neighbours and forwarding entries are not in the kernel (add route 10.244.2.0/24: no such device)"}},
		{"objects are missing, and nobody says why", func(s *node) { s.Peers.Programmed = 0 },
			[]string{"broken a: 12 of 12 links, routes, neighbours and forwarding entries are not in the kernel (no reason is known)"}},
		{"a sync fails before it counts", func(s *node) {
			s.Peers.Desired, s.Peers.Programmed, s.Peers.Error, s.NotReady = 0, 0, "there is no uplink", []string{"there is no uplink"}
		}, []string{"broken a: not ready: there is no uplink"}},
		{"records are rejected", func(s *node) { s.Peers.Rejected = 1 }, []string{"degraded a: 1 records of other nodes cannot be used"}},
		{"the sync is late, not yet", func(s *node) { s.Peers.LastSync = now.Add(-10 * time.Minute) }, nil},
		{"the sync is late", func(s *node) { s.Peers.LastSync = now.Add(-601 * time.Second) }, []string{"degraded a: the last good sync was 10m1s ago"}},
		{"the clock went back", func(s *node) { s.Peers.LastSync = now.Add(time.Hour) }, nil},
		{"sessions are down", func(s *node) { s.BGP.Established = 1 }, []string{"broken a: 1 of 2 BGP sessions are not established"}},
		{"sessions are down soon after the start", func(s *node) { s.BGP.Established, s.Started = 1, now.Add(-time.Second) },
			[]string{"broken a: 1 of 2 BGP sessions are not established"}},
		{"peers are left out", func(s *node) { s.BGP.LeftOut = 2 }, []string{"degraded a: 2 BGP peers have no session, for something is wrong with their configuration"}},
		{"Services fail", func(s *node) {
			s.Services.Error, s.NotReady = "write table ip twill: no space\nand more", []string{"service proxy: write table ip twill: no space\nand more"}
		}, []string{"broken a: Services are not programmed: write table ip twill: no space"}},
		{"a change of Services waits, not for long", func(s *node) { s.Services.WaitingSeconds = 60 }, nil},
		{"a change of Services waits", func(s *node) { s.Services.WaitingSeconds = 61 }, []string{"broken a: a change of Services has been waiting for 61 s"}},
		{"policies fail", func(s *node) {
			s.Policies.Error, s.Policies.WaitingSeconds, s.NotReady = "no", 100, []string{"policies are not programmed: no"}
		}, []string{"broken a: policies are not programmed: no"}},
		{"a change of policies waits", func(s *node) { s.Policies.WaitingSeconds = 3600 }, []string{"broken a: a change of policies has been waiting for 3600 s"}},
		{"the range is full, nearly", func(s *node) { s.Addresses[0].Used = 228 }, []string{"degraded a: 228 of the 253 addresses 10.244.1.1-10.244.1.254 are taken"}},
		{"the range is not that full", func(s *node) { s.Addresses[0].Used = 227 }, nil},
		{"the range is full", func(s *node) { s.Addresses[0].Used = 253 },
			[]string{"broken a: all 253 addresses 10.244.1.1-10.244.1.254 are taken: new pods do not start"}},
		{"a range without addresses", func(s *node) { s.Addresses[0] = api.RangeUse{} }, nil},
		{"a huge range", func(s *node) { s.Addresses[0] = api.RangeUse{Used: 1 << 20, Size: 1<<64 - 1} }, nil},
		{"the table of connections", func(s *node) { s.Conntrack.Used = 52429 },
			[]string{"broken a: 52429 of 65536 connections are tracked: beyond that, packets of new ones are dropped"}},
		{"room in the table of connections", func(s *node) { s.Conntrack.Used = 52428 }, nil},
		{"no limit of connections", func(s *node) { s.Conntrack = api.ConntrackUse{Used: 1 << 20} }, nil},
		{"the uplink is smaller", func(s *node) { s.UplinkMTU = 1400 }, []string{"broken a: pods may send packets of 1450 bytes, and the uplink eth0 takes 1400"}},
		{"routed pods", func(s *node) { s.PodMTU = 1500 }, nil},
		{"not found out", func(s *node) { s.Unknown = []string{"number of pods: permission denied"} }, []string{"notice a: number of pods: permission denied"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := healthy()
			tt.harm(&s)
			found := Judge([]Node{{Name: "a", Status: s}}, now)
			if diff := cmp.Diff(append([]string{}, tt.want...), told(found)); diff != "" {
				t.Error(diff)
			}
			for _, f := range found {
				if f.Mend == "" {
					t.Errorf("%s: no mend", f)
				}
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	s := healthy()
	s.Peers.Programmed = 0 // what is left in Status counts for nothing
	got := told(Judge([]Node{{Name: "b", Status: s, Err: errors.New("there is no socket")}}, now))
	if diff := cmp.Diff([]string{"broken b: there is no socket"}, got); diff != "" {
		t.Error(diff)
	}
}

// numbered returns nodes that differ only in what must.
func numbered(n int) []Node {
	var all []Node
	for i := range n {
		s := healthy()
		s.Node = fmt.Sprintf("n%d", i)
		s.Subnets = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i/256), byte(i), 0}), 24)}
		all = append(all, Node{Name: s.Node, Status: s})
	}
	return all
}

func TestCluster(t *testing.T) {
	tests := []struct {
		name string
		harm func([]Node)
		want []string
	}{
		{"healthy", func([]Node) {}, nil},
		{"versions", func(n []Node) { n[3].Status.Version = "v2" }, []string{"notice : nodes run different versions: v1 (n0, n1, n2, 2 more), v2 (n3)"}},
		{"MTUs", func(n []Node) { n[0].Status.PodMTU, n[5].Status.PodMTU = 1350, 1350 }, []string{"degraded : pods have different MTUs: 1350 (n0, n5), 1450 (n1, n2, n3, 1 more)"}},
		{"a node without MTU", func(n []Node) { n[0].Status.PodMTU = 0 }, nil},
		{"one subnet twice", func(n []Node) { n[4].Status.Subnets = n[1].Status.Subnets }, []string{"broken : n1 has pods in 10.100.1.0/24, and n4 in 10.100.1.0/24"}},
		{"a subnet in another", func(n []Node) { n[4].Status.Subnets = []netip.Prefix{netip.MustParsePrefix("10.100.1.128/25")} },
			[]string{"broken : n1 has pods in 10.100.1.0/24, and n4 in 10.100.1.128/25"}},
		{"a node that does not answer", func(n []Node) {
			n[1].Err, n[1].Status.Version, n[1].Status.Subnets = errors.New("away"), "v0", n[0].Status.Subnets
		}, []string{"broken n1: away"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nodes := numbered(6)
			tt.harm(nodes)
			if diff := cmp.Diff(append([]string{}, tt.want...), told(Judge(nodes, now))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The worst is first; what is as bad stays in the order of the nodes.
func TestOrder(t *testing.T) {
	nodes := numbered(3)
	nodes[0].Status.Unknown = []string{"pods"}
	nodes[0].Status.Peers.Rejected = 1
	nodes[1].Status.Services.Error = "no"
	nodes[1].Status.Peers.Rejected = 1
	nodes[2].Err = errors.New("away")
	nodes[1].Status.Version = "v2"
	got := told(Judge(nodes, now))
	want := []string{
		"broken n1: Services are not programmed: no", "broken n2: away",
		"degraded n0: 1 records of other nodes cannot be used", "degraded n1: 1 records of other nodes cannot be used",
		"notice n0: pods", "notice : nodes run different versions: v1 (n0), v2 (n1)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(nodes)
	reversed := told(Judge(nodes, now))
	slices.Sort(got)
	slices.Sort(reversed)
	if diff := cmp.Diff(got, reversed); diff != "" {
		t.Errorf("another order of nodes, other findings: %s", diff)
	}
}

// A thousand nodes, whose findings are bounded by what is wrong and not by pairs of nodes.
func TestBigCluster(t *testing.T) {
	nodes := numbered(1000)
	if got := Judge(nodes, now); len(got) != 0 {
		t.Errorf("%d findings of healthy nodes, the first: %v", len(got), got[0])
	}
	for i := range nodes {
		nodes[i].Status.Subnets = nodes[0].Status.Subnets
	}
	got := told(Judge(nodes, now))
	if len(got) != 999 || !strings.HasPrefix(got[0], "broken : n0 has pods in ") {
		t.Errorf("%d findings, the first: %s", len(got), got[0])
	}
}

func TestFindingAsText(t *testing.T) {
	f := Finding{Degraded, "a", "it is slow", "wait"}
	if got := f.String(); got != "a: it is slow: wait" {
		t.Error(got)
	}
	f.Node = ""
	if got := f.String(); got != "it is slow: wait" {
		t.Error(got)
	}
	text, err := json.Marshal(f)
	if diff := cmp.Diff(`{"severity":"degraded","what":"it is slow","mend":"wait"}`, string(text)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
