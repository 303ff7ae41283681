package filter

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// golden compares with a file in testdata.
func golden(t *testing.T, name, have string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(have), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), have); d != "" {
		t.Errorf("%s differs (-want +have); if it should, write it anew with -update:\n%s", file, d)
	}
}

func selector(key, value string) *store.Selector {
	s := store.NewSelector(store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
	return &s
}

func testPod(node, name, app string, addrs ...string) *store.Pod {
	p := &store.Pod{Name: store.ObjectName{Namespace: "shop", Name: name}, Node: node, Labels: map[string]string{"app": app}, UID: "uid-" + name}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	return p
}

// pods returns changes with these pods.
func podChanges(pods ...*store.Pod) store.PolicyChanges {
	c := store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{}}
	for _, p := range pods {
		c.Pods[p.Key()] = p
	}
	return c
}

// localsOf attaches pods.
func localsOf(pods ...*store.Pod) []Local {
	var all []Local
	for _, p := range pods {
		all = append(all, Local{Key: p.Key(), UID: p.UID, Addrs: p.Addrs})
	}
	return all
}

// webPolicy opens TCP 80 and a range of the pods with app=web to those with app=client and to a network.
func webPolicy() *store.NetworkPolicy {
	return &store.NetworkPolicy{Name: store.ObjectName{Namespace: "shop", Name: "web"}, Pods: *selector("app", "web"), IsolatesIngress: true,
		Ingress: []store.PolicyRule{
			{Peers: []store.PolicyPeer{{Pods: selector("app", "client")}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 80}}},
			{
				Peers: []store.PolicyPeer{{Block: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}}},
				Ports: []store.PolicyPort{{Protocol: store.UDP, Port: 8000, EndPort: 8999}},
			},
		}}
}

// small is a node with two pods, one of which has a policy.
func small() *Filter {
	f := New(testConfig)
	web, other := testPod("dual", "web", "web", "10.1.1.2", "fd00:1:1::2"), testPod("dual", "other", "other", "10.1.1.3")
	c := podChanges(web, other, testPod("four", "client", "client", "10.1.2.2"))
	c.Reset = true
	c.Policies = map[store.ObjectName]*store.NetworkPolicy{webPolicy().Name: webPolicy()}
	c.ClusterPolicies = map[string]*store.ClusterNetworkPolicy{"no-smtp": {
		Name: "no-smtp", Tier: store.TierAdmin, Priority: 10, Egress: []store.ClusterPolicyRule{{
			Action: store.ActionDeny, Peers: []store.PolicyPeer{{Block: netip.MustParsePrefix("0.0.0.0/0")}},
			Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 25}},
		}},
	}}
	f.Apply(c)
	f.SetLocal(localsOf(web, other))
	return f
}

// TestGolden shows a small table.
func TestGolden(t *testing.T) {
	p := small().Plan()
	golden(t, "small.table", text(*p.Table))
}
