package policies

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

func name(namespace, name string) store.ObjectName {
	return store.ObjectName{Namespace: namespace, Name: name}
}

func pod(namespace, n string, labels map[string]string) *store.Pod {
	return &store.Pod{Name: name(namespace, n), Node: "n1", Labels: labels}
}

// said puts what is told into words: - for what is gone.
func said(c store.PolicyChanges) []string {
	var out []string
	for n, p := range c.Policies {
		out = append(out, fmt.Sprint("policy ", n, there(p != nil)))
	}
	for n, p := range c.ClusterPolicies {
		out = append(out, fmt.Sprint("cluster policy ", n, there(p != nil)))
	}
	for n, ns := range c.Namespaces {
		if ns == nil {
			out = append(out, "namespace "+n+" -")
		} else {
			out = append(out, fmt.Sprint("namespace ", n, " ", ns.Labels["team"]))
		}
	}
	for k, p := range c.Pods {
		out = append(out, fmt.Sprint("pod ", k.Name, there(p != nil)))
	}
	for _, r := range c.Rejected {
		out = append(out, "rejected "+r.Key)
	}
	slices.Sort(out)
	return out
}

func there(is bool) string {
	if is {
		return ""
	}
	return " -"
}

func TestTable(t *testing.T) {
	table := New(true)
	tell := func(reset bool, want ...string) {
		t.Helper()
		c, ok := table.Take()
		if diff := cmp.Diff(want, said(c)); diff != "" || c.Reset != reset || ok != (reset || len(want) > 0) {
			t.Errorf("ok %t, reset %t: %s", ok, c.Reset, diff)
		}
	}
	setPod := func(p *store.Pod) { table.SetPod(p.Key(), p) }
	setPod(pod("gone", "x", nil))
	table.SetPod(pod("gone", "x", nil).Key(), nil)
	table.SetNamespace("a", &store.Namespace{Name: "a", Labels: map[string]string{"team": "1"}})
	setPod(pod("a", "p", nil))
	setPod(pod("b", "p", map[string]string{"k": "v"}))
	tell(true, "namespace a 1", "namespace b ", "pod a/p", "pod b/p")
	tell(false)

	setPod(pod("b", "p", map[string]string{"k": "v"}))
	table.SetNamespace("a", &store.Namespace{Name: "a", Labels: map[string]string{"team": "1"}})
	tell(false)

	policy := func() *store.NetworkPolicy {
		return &store.NetworkPolicy{Name: name("b", "n"), Pods: store.NewSelector(store.Requirement{Key: "a", Operator: store.SelectorExists})}
	}
	table.SetPolicy(name("b", "n"), policy())
	table.SetClusterPolicy("c", &store.ClusterNetworkPolicy{Name: "c"})
	table.Reject(store.Reject{Key: "bad", Err: errors.New("bad")})
	tell(false, "cluster policy c", "policy b/n", "rejected bad")
	table.SetPolicy(name("b", "n"), policy())
	table.SetClusterPolicy("c", &store.ClusterNetworkPolicy{Name: "c"})
	tell(false)

	table.SetPod(pod("b", "p", nil).Key(), nil)
	tell(false, "pod b/p -")
	table.SetPolicy(name("b", "n"), nil)
	table.SetPolicy(name("b", "other"), nil)
	tell(false, "namespace b -", "policy b/n -")
	table.SetNamespace("a", nil)
	tell(false, "namespace a ")
	table.SetNamespace("a", &store.Namespace{Name: "a", Labels: map[string]string{"team": "2"}})
	table.SetPod(pod("a", "p", nil).Key(), nil)
	tell(false, "namespace a 2", "pod a/p -")
	table.SetNamespace("a", nil)
	table.SetClusterPolicy("c", nil)
	tell(false, "cluster policy c -", "namespace a -")
}

// What is not understood is told as it becomes so, and is among the flawed until it is well again or gone, though nothing else is told of that.
func TestFlaws(t *testing.T) {
	table := New(true)
	bad := errors.New("bad")
	steps := []struct {
		name             string
		do               func()
		rejected, flawed []string // KEY: error
	}{
		{"nothing", func() {}, nil, nil},
		{"one that was never understood", func() { table.Reject(store.Reject{Key: "networkpolicies/a/p", Err: bad}) },
			[]string{"networkpolicies/a/p: it has no effect, since it was never understood: bad"}, []string{"networkpolicies/a/p: it has no effect, since it was never understood: bad"}},
		{"one that was", func() {
			table.SetClusterPolicy("c", &store.ClusterNetworkPolicy{Name: "c"})
			table.Reject(store.Reject{Key: ClusterPolicyKey("c"), Err: bad})
		}, []string{"clusternetworkpolicies/c: bad"}, []string{"clusternetworkpolicies/c: bad", "networkpolicies/a/p: it has no effect, since it was never understood: bad"}},
		{"it is what it was again", func() { table.SetClusterPolicy("c", &store.ClusterNetworkPolicy{Name: "c"}) }, nil,
			[]string{"networkpolicies/a/p: it has no effect, since it was never understood: bad"}},
		{"in part", func() { table.SetPolicy(name("a", "p"), &store.NetworkPolicy{Name: name("a", "p"), Flaw: "spec.a"}) }, nil, []string{"networkpolicies/a/p: spec.a"}},
		{"in part, too", func() { table.SetClusterPolicy("c", &store.ClusterNetworkPolicy{Name: "c", Flaw: "spec.b"}) }, nil,
			[]string{"clusternetworkpolicies/c: spec.b", "networkpolicies/a/p: spec.a"}},
		{"they are gone", func() { table.SetPolicy(name("a", "p"), nil); table.SetClusterPolicy("c", nil) }, nil, nil},
		{"a namespace and a pod", func() {
			table.Reject(store.Reject{Key: "namespaces/a", Err: bad})
			table.Reject(store.Reject{Key: "pods/n1/a/p", Err: bad})
		}, []string{"namespaces/a: bad", "pods/n1/a/p: bad"}, []string{"namespaces/a: bad", "pods/n1/a/p: bad"}},
		{"they are well", func() { table.SetNamespace("a", nil); table.SetPod(pod("a", "p", nil).Key(), pod("a", "p", nil)) }, nil, nil},
	}
	words := func(rejects []store.Reject) (out []string) {
		for _, r := range rejects {
			out = append(out, r.Key+": "+r.Err.Error())
		}
		return out
	}
	for _, step := range steps {
		step.do()
		c, ok := table.Take()
		if diff := cmp.Diff(step.rejected, words(c.Rejected)) + cmp.Diff(step.flawed, words(c.Flawed)); !ok || diff != "" {
			t.Errorf("%s: told %t, %s", step.name, ok, diff)
		}
		if _, again := table.Take(); again {
			t.Errorf("%s: told twice", step.name)
		}
	}
}

func TestNamespacesOfTheirOwn(t *testing.T) {
	table := New(false)
	table.SetPod(pod("a", "p", nil).Key(), pod("a", "p", nil))
	table.SetNamespace("b", &store.Namespace{Name: "b"})
	c, _ := table.Take()
	if diff := cmp.Diff([]string{"namespace b ", "pod a/p"}, said(c)); diff != "" {
		t.Error(diff)
	}
	table.SetNamespace("b", nil)
	if c, _ = table.Take(); cmp.Diff([]string{"namespace b -"}, said(c)) != "" {
		t.Error(said(c))
	}
	if p := table.Pod(pod("a", "p", nil).Key()); p == nil || table.Pod(pod("a", "q", nil).Key()) != nil {
		t.Error("the pod is not known")
	}
}

// In whatever order and batches the same objects come, those who follow know the same in the end.
func TestAnyOrder(t *testing.T) {
	var want map[string]*store.Namespace
	var pods map[store.PodKey]*store.Pod
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		table := New(true)
		var steps []func()
		for i := range 20 {
			ns := string(rune('a' + i%4))
			p := pod(ns, fmt.Sprint(i), map[string]string{"i": fmt.Sprint(i)})
			steps = append(steps, func() {
				table.SetPod(p.Key(), p)
				if i%3 == 0 {
					table.SetPod(p.Key(), nil)
				}
			})
		}
		for _, ns := range []string{"a", "e"} {
			steps = append(steps, func() { table.SetNamespace(ns, &store.Namespace{Name: ns, Labels: map[string]string{"team": ns}}) })
		}
		r.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		namespaces, seen := map[string]*store.Namespace{}, map[store.PodKey]*store.Pod{}
		follow := func() {
			c, _ := table.Take()
			for n, ns := range c.Namespaces {
				if namespaces[n] = ns; ns == nil {
					delete(namespaces, n)
				}
			}
			for k, p := range c.Pods {
				if seen[k] = p; p == nil {
					delete(seen, k)
				}
			}
		}
		for _, step := range steps {
			if step(); r.IntN(3) == 0 {
				follow()
			}
		}
		follow()
		if seed == 0 {
			want, pods = namespaces, seen
		}
		if diff := cmp.Diff(want, namespaces); diff != "" || len(pods) != len(seen) || !slices.Equal(slices.Sorted(maps.Keys(namespaces)), []string{"a", "b", "c", "d", "e"}) {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}
