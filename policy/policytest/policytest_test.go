package policytest

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

func testSize() Size {
	return Size{
		Nodes: []Node{
			{"dual", netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("fd00:1:1::/64")},
			{"four", netip.MustParsePrefix("10.1.2.0/24"), netip.Prefix{}},
			{"six", netip.Prefix{}, netip.MustParsePrefix("fd00:1:3::/64")},
			{"tiny", netip.MustParsePrefix("10.1.4.0/30"), netip.Prefix{}},
		},
		Namespaces: 4, Pods: 20, Policies: 6, ClusterPolicies: 4,
		Disputed: 0.05, Silent: 0.05, Anywhere: 0.2,
	}
}

func TestEqualSeedsMakeEqualClusters(t *testing.T) {
	make := func(seed uint64) (store.PolicyChanges, []store.PolicyChanges) {
		c := Generate(rand.New(rand.NewPCG(seed, 1)), testSize())
		all, changes := c.Changes(), []store.PolicyChanges(nil)
		for range 20 {
			c.Flows(5)
			changes = append(changes, c.Change())
		}
		return all, changes
	}
	for seed := range uint64(20) {
		all, changes := make(seed)
		again, changesAgain := make(seed)
		if diff := cmp.Diff(all, again, cmp.Comparer(equalAddr), cmp.Comparer(equalPrefix)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		if diff := cmp.Diff(changes, changesAgain, cmp.Comparer(equalAddr), cmp.Comparer(equalPrefix)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

func equalAddr(a, b netip.Addr) bool     { return a == b }
func equalPrefix(a, b netip.Prefix) bool { return a == b }

// Clusters hold what the API would accept and, over many seeds, each feature.
func TestGenerate(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(300) {
		c := Generate(rand.New(rand.NewPCG(seed, 2)), testSize())
		claimed := map[netip.Addr]int{}
		for _, pod := range c.Pods {
			seen["silent pod"] = seen["silent pod"] || len(pod.Addrs) == 0
			for _, addr := range pod.Addrs {
				claimed[addr]++
				seen["disputed address"] = seen["disputed address"] || claimed[addr] > 1
			}
		}
		for _, p := range c.Policies {
			for _, r := range append(append([]store.PolicyRule(nil), p.Ingress...), p.Egress...) {
				seen["everybody"] = seen["everybody"] || len(r.Peers) == 0
				checkPeers(t, seen, r.Peers)
				checkPorts(t, seen, r.Ports)
			}
		}
		for _, p := range c.ClusterPolicies {
			for _, r := range append(append([]store.ClusterPolicyRule(nil), p.Ingress...), p.Egress...) {
				seen[string(p.Tier)+" "+string(r.Action)] = true
				if len(r.Peers) == 0 {
					t.Errorf("seed %d: a rule of %s without peers", seed, p.Name)
				}
				checkPeers(t, seen, r.Peers)
				checkPorts(t, seen, r.Ports)
			}
		}
		for _, f := range c.Flows(20) {
			if f.Src.Is4() != f.Dst.Is4() || !f.Src.IsValid() {
				t.Errorf("seed %d: flow %v is not of one family", seed, f)
			}
			seen["flow of "+f.Protocol.String()] = true
		}
	}
	for _, want := range []string{
		"silent pod", "disputed address", "everybody", "own namespace", "namespaces", "namespaces and pods", "block", "except",
		"name", "name alone", "port", "range", "all ports", "Admin Accept", "Admin Deny", "Admin Pass", "Baseline Accept", "Baseline Deny", "Baseline Pass",
		"flow of TCP", "flow of UDP", "flow of SCTP", "flow of " + ICMP.String(), "flow of " + ICMPv6.String(),
	} {
		if !seen[want] {
			t.Errorf("no seed makes this: %s", want)
		}
	}
}

func checkPeers(t *testing.T, seen map[string]bool, peers []store.PolicyPeer) {
	for _, p := range peers {
		switch {
		case p.Block.IsValid():
			seen["block"] = true
			if p.Block != p.Block.Masked() {
				t.Errorf("block %s is not masked", p.Block)
			}
			for _, e := range p.Except {
				seen["except"] = true
				if !p.Block.Contains(e.Addr()) || e.Bits() <= p.Block.Bits() || e != e.Masked() {
					t.Errorf("%s is no exception of %s", e, p.Block)
				}
			}
		case p.Namespaces == nil:
			seen["own namespace"] = true
		case p.Pods == nil:
			seen["namespaces"] = true
		default:
			seen["namespaces and pods"] = true
		}
	}
}

func checkPorts(t *testing.T, seen map[string]bool, ports []store.PolicyPort) {
	for _, p := range ports {
		switch {
		case p.Name != "" && p.Protocol == 0:
			seen["name alone"] = true
		case p.Name != "":
			seen["name"] = true
		case p.Port == 0:
			seen["all ports"] = true
		case p.EndPort != 0:
			seen["range"] = true
			if p.EndPort < p.Port {
				t.Errorf("port %v ends before it begins", p)
			}
		default:
			seen["port"] = true
		}
	}
}

func TestCasesAreWellFormed(t *testing.T) {
	cases, names, checked := Cases(), map[string]bool{}, 0
	for _, c := range cases {
		name := c.Kind + ": " + c.Name
		if names[name] {
			t.Errorf("two cases are named %q", name)
		}
		names[name] = true
		checks := c.Checks()
		checked += len(checks)
		for _, e := range c.expect {
			if e.src == "x/nobody" || e.dst == "x/nobody" || e.src == "nobody/*" || e.dst == "nobody/*" || e.src == "*/nobody" || e.dst == "*/nobody" {
				continue
			}
			about := 0
			for _, check := range checks {
				if e.about(check.Src, check.Dst, check.Service) {
					about++
				}
			}
			if about == 0 {
				t.Errorf("%s: expectation %v is about nothing", name, e)
			}
		}
	}
	if len(cases) < 250 {
		t.Errorf("%d cases, want at least 250", len(cases))
	}
	t.Logf("%d cases, %d checks", len(cases), checked)
}

func TestModel(t *testing.T) {
	seen := map[netip.Addr]string{}
	for _, pod := range Pods() {
		for _, addr := range pod.Addrs {
			if other, ok := seen[addr]; ok {
				t.Errorf("%s and %s have address %s", other, pod.Name, addr)
			}
			seen[addr] = pod.Name.String()
		}
	}
	for text, want := range map[string]string{
		"10.70.1.17": "x/a", "10.70.2.18": "y/b", "10.70.3.19": "z/c", "fd70:0:0:1::11": "x/a", "fd70:0:0:2::12": "y/b", "fd70:0:0:3::13": "z/c",
	} {
		if got := seen[netip.MustParseAddr(text)]; got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}
