package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// PolicyHarness is the backend of a store.PolicySource in the hands of a test. Its methods fail the test when they cannot do their work.
type PolicyHarness interface {
	Backend
	// PolicySource returns a new node's source. It works while the backend is stopped.
	PolicySource() store.PolicySource
	// PutObject makes the backend hold the object of a document, new or in place of the one with its name; DeleteObject removes one. The kinds
	// are those of policies and Namespaces.
	PutObject(d manifest.Document)
	DeleteObject(kind string, name store.ObjectName)
	// PutPod makes the backend hold a pod in that state, as its node and the cluster write it.
	PutPod(pod *corev1.Pod)
	DeletePod(name store.ObjectName)
	// PutUnreadable makes the backend hold a ClusterNetworkPolicy of that name that cannot be read, by another hand.
	PutUnreadable(name string)
}

// RunPolicies runs the contract suite of store.PolicySource. newHarness returns a running backend that holds nothing in the namespaces of the suite,
// PolicyNamespaces, which need not be there; others are not looked at.
func RunPolicies(t *testing.T, newHarness func(t *testing.T) PolicyHarness) {
	for _, test := range []struct {
		name string
		run  func(s *policySuite)
	}{
		{"the first change is a whole reset", testFirstPolicies},
		{"policies come, change and go", testPolicyChanges},
		{"a namespace is relabelled", testRelabelled},
		{"pods come, change and go", testPods},
		{"what cannot be read", testUnreadable},
		{"what cannot be read at the start", testUnreadableAtStart},
		{"down at start", testPoliciesDownAtStart},
		{"outage", testPoliciesOutage},
		{"compacted during an outage", testPoliciesCompacted},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &policySuite{T: t, PolicyHarness: newHarness(t)}
			s.putNamespace("shop", "a")
			test.run(s)
		})
	}
}

// PolicyNamespaces are the namespaces that the suite uses.
var PolicyNamespaces = []string{"shop", "lab"}

type policySuite struct {
	*testing.T
	PolicyHarness
}

// parse returns the one document of a manifest.
func (s *policySuite) parse(text string) manifest.Document {
	s.Helper()
	docs, err := manifest.Parse([]byte(text))
	if err != nil || len(docs) != 1 {
		s.Fatal(docs, err)
	}
	return docs[0]
}

func (s *policySuite) putNamespace(name, team string) {
	s.Helper()
	s.PutObject(s.parse(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {team: %s}}}", name, team)))
}

// putPolicy stores a NetworkPolicy shop/NAME of the pods with the label app=APP.
func (s *policySuite) putPolicy(name, app string) {
	s.Helper()
	s.PutObject(s.parse(fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: shop}, "+
		"spec: {podSelector: {matchLabels: {app: %s}}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: http}]}]}}", name, app)))
}

func (s *policySuite) putClusterPolicy(name string, priority int) {
	s.Helper()
	s.PutObject(s.parse(fmt.Sprintf("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: %s}, "+
		"spec: {tier: Admin, priority: %d, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.0.2.0/24]}]}]}}", name, priority)))
}

// TestPolicyPod returns a ready pod shop/NAME on node n1 with that address, none when it is empty.
func TestPolicyPod(name, addr string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.Labels = "shop", name, map[string]string{"app": "web"}
	p.Spec.NodeName = "n1"
	p.Spec.Containers = []corev1.Container{{Name: "a", Image: "a", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if addr != "" {
		p.Status.PodIP, p.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
	}
	return p
}

// PolicyView is what a source told, put together. It is for one goroutine.
type PolicyView struct {
	*watching[store.PolicyChanges]

	Policies        map[store.ObjectName]*store.NetworkPolicy
	ClusterPolicies map[string]*store.ClusterNetworkPolicy
	Namespaces      map[string]*store.Namespace
	Pods            map[store.PodKey]*store.Pod
	Rejected        []store.Reject
	Flawed          []store.Reject
	Resets          int
}

// WatchPolicies follows a source until the test ends or Stop is called.
func WatchPolicies(t testing.TB, source store.PolicySource) *PolicyView {
	v := &PolicyView{}
	v.watching = newWatching(t, source.WatchPolicies, v.take, func() string { return fmt.Sprintf("%q, rejected %v", v.said(), v.Rejected) })
	return v
}

func (v *PolicyView) take(c store.PolicyChanges) {
	v.t.Helper()
	if v.Told == 0 && !c.Reset {
		v.t.Error("the first change is no reset")
	}
	if c.Reset {
		v.Resets++
		v.Policies, v.ClusterPolicies = map[store.ObjectName]*store.NetworkPolicy{}, map[string]*store.ClusterNetworkPolicy{}
		v.Namespaces, v.Pods = map[string]*store.Namespace{}, map[store.PodKey]*store.Pod{}
	}
	merge(v.Policies, c.Policies)
	merge(v.ClusterPolicies, c.ClusterPolicies)
	merge(v.Namespaces, c.Namespaces)
	merge(v.Pods, c.Pods)
	v.Rejected = append(v.Rejected, c.Rejected...)
	v.Flawed = c.Flawed
}

func merge[K comparable, V any](into, from map[K]*V) {
	maps.Copy(into, from)
	maps.DeleteFunc(into, func(_ K, value *V) bool { return value == nil })
}

// said puts what is known of the suite's namespaces into words, sorted.
func (v *PolicyView) said() string {
	var all []string
	for name, p := range v.Policies {
		all = append(all, fmt.Sprintf("%s{%s}", name, p.Pods))
	}
	for name, p := range v.ClusterPolicies {
		all = append(all, fmt.Sprintf("%s{%s %d}", name, p.Tier, p.Priority))
	}
	for name, ns := range v.Namespaces {
		if slices.Contains(PolicyNamespaces, name) && ns.Labels[store.NamespaceNameLabel] == name {
			all = append(all, fmt.Sprintf("%s{%s}", name, ns.Labels["team"]))
		}
	}
	for key, p := range v.Pods {
		all = append(all, fmt.Sprintf("%s@%s%s", key.Name, key.Node, p.Addrs))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// holds waits until the view is of exactly these objects, as said puts them.
func (v *PolicyView) holds(want ...string) {
	v.t.Helper()
	slices.Sort(want)
	v.Until(fmt.Sprintf("%q", want), func() bool { return v.said() == strings.Join(want, " ") })
}

func testFirstPolicies(s *policySuite) {
	s.putPolicy("a", "web")
	s.putClusterPolicy("c", 7)
	s.PutPod(TestPolicyPod("p", "10.244.1.5"))
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop/a{app=web}", "c{Admin 7}", "shop{a}", "shop/p@n1[10.244.1.5]")
	if v.Told != 1 {
		s.Errorf("what was there came with %d changes", v.Told)
	}
	all := store.Selector{}
	want := &store.NetworkPolicy{Name: store.ObjectName{Namespace: "shop", Name: "a"}, IsolatesIngress: true,
		Pods:    store.NewSelector(store.Requirement{Key: "app", Operator: store.SelectorIn, Values: []string{"web"}}),
		Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Namespaces: &all}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Name: "http"}}}}}
	sameSelector := cmp.Comparer(func(a, b store.Selector) bool { return a.Equal(b) })
	samePrefix := cmp.Comparer(func(a, b store.PolicyPeer) bool {
		return a.Block == b.Block && cmp.Equal(a.Namespaces, b.Namespaces, sameSelector)
	})
	if diff := cmp.Diff(want, v.Policies[want.Name], sameSelector, samePrefix); diff != "" {
		s.Error(diff)
	}
	pod := v.Pods[store.PodKey{Node: "n1", Name: store.ObjectName{Namespace: "shop", Name: "p"}}]
	if !pod.Ready || !cmp.Equal(pod.Labels, map[string]string{"app": "web"}) || !slices.Equal(pod.Ports, []store.PodPort{{Name: "http", Protocol: store.TCP, Port: 8080}}) {
		s.Errorf("have %+v", pod)
	}
	if err := v.Stop(); !errors.Is(err, context.Canceled) {
		s.Errorf("a cancelled watch returned %v", err)
	}
}

func testPolicyChanges(s *policySuite) {
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop{a}")
	s.putPolicy("a", "web")
	s.putClusterPolicy("c", 7)
	v.holds("shop/a{app=web}", "c{Admin 7}", "shop{a}")
	told := v.Told
	s.putPolicy("a", "web") // says the same
	s.putPolicy("b", "db")
	v.holds("shop/a{app=web}", "shop/b{app=db}", "c{Admin 7}", "shop{a}")
	if v.Told > told+1 {
		s.Errorf("one new policy was told in %d changes", v.Told-told)
	}
	s.putPolicy("a", "api")
	s.putClusterPolicy("c", 8)
	v.holds("shop/a{app=api}", "shop/b{app=db}", "c{Admin 8}", "shop{a}")
	s.DeleteObject(manifest.KindNetworkPolicy, store.ObjectName{Namespace: "shop", Name: "a"})
	s.DeleteObject(manifest.KindClusterNetworkPolicy, store.ObjectName{Name: "c"})
	v.holds("shop/b{app=db}", "shop{a}")
	s.putPolicy("a", "web")
	v.holds("shop/a{app=web}", "shop/b{app=db}", "shop{a}")
	if v.Resets != 1 {
		s.Errorf("%d resets", v.Resets)
	}
}

func testRelabelled(s *policySuite) {
	s.PutPod(TestPolicyPod("p", "10.244.1.5"))
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop{a}", "shop/p@n1[10.244.1.5]")
	s.putNamespace("shop", "b")
	v.holds("shop{b}", "shop/p@n1[10.244.1.5]")
	s.putNamespace("lab", "a")
	v.holds("lab{a}", "shop{b}", "shop/p@n1[10.244.1.5]")
	pod := TestPolicyPod("p", "10.244.1.5")
	pod.Labels["app"] = "db"
	s.PutPod(pod)
	v.Until("the pod's new label", func() bool {
		p := v.Pods[store.PodKey{Node: "n1", Name: store.ObjectName{Namespace: "shop", Name: "p"}}]
		return p != nil && p.Labels["app"] == "db"
	})
}

func testPods(s *policySuite) {
	s.putPolicy("a", "web")
	v := WatchPolicies(s, s.PolicySource())
	const rest = "shop/a{app=web}"
	v.holds(rest, "shop{a}")
	s.PutPod(TestPolicyPod("p", "")) // its node has not said yet which address it has
	v.holds(rest, "shop{a}", "shop/p@n1[]")
	s.PutPod(TestPolicyPod("p", "10.244.1.5"))
	host := TestPolicyPod("host", "192.0.2.1")
	host.Spec.HostNetwork, host.Spec.Containers[0].Ports = true, nil
	s.PutPod(host)
	ended := TestPolicyPod("ended", "10.244.1.6")
	s.PutPod(ended)
	v.holds(rest, "shop{a}", "shop/p@n1[10.244.1.5]", "shop/ended@n1[10.244.1.6]")
	ended.Status.Phase = corev1.PodSucceeded
	s.PutPod(ended)
	v.holds(rest, "shop{a}", "shop/p@n1[10.244.1.5]")
	s.DeletePod(store.ObjectName{Namespace: "shop", Name: "p"})
	v.holds(rest, "shop{a}")
	moved := TestPolicyPod("p", "10.244.2.5") // a StatefulSet's pod, on another node
	moved.Spec.NodeName = "n2"
	s.PutPod(moved)
	v.holds(rest, "shop{a}", "shop/p@n2[10.244.2.5]")
	// A new source is not told of pods that have ended or use their node's network.
	WatchPolicies(s, s.PolicySource()).holds(rest, "shop{a}", "shop/p@n2[10.244.2.5]")
}

func testUnreadable(s *policySuite) {
	s.putClusterPolicy("c", 7)
	v := WatchPolicies(s, s.PolicySource())
	v.holds("c{Admin 7}", "shop{a}")
	s.PutUnreadable("c")
	v.Until("it is rejected", func() bool { return len(v.Rejected) == 1 })
	s.putPolicy("a", "web")
	v.holds("shop/a{app=web}", "c{Admin 7}", "shop{a}") // the last good state
	if len(v.Flawed) != 1 || v.Flawed[0].Key != "clusternetworkpolicies/c" {
		s.Errorf("flawed: %v", v.Flawed)
	}
	s.putClusterPolicy("c", 8)
	v.holds("shop/a{app=web}", "c{Admin 8}", "shop{a}")
	if len(v.Rejected) != 1 || v.Rejected[0].Key != "clusternetworkpolicies/c" || len(v.Flawed) > 0 {
		s.Errorf("rejected %v, flawed %v", v.Rejected, v.Flawed)
	}
	s.PutUnreadable("c")
	v.Until("it is rejected again", func() bool { return len(v.Rejected) == 2 && len(v.Flawed) == 1 })
	s.putClusterPolicy("c", 8)
	v.Until("it is what it was", func() bool { return len(v.Flawed) == 0 })
	s.PutUnreadable("c")
	v.Until("it is rejected once more", func() bool { return len(v.Flawed) == 1 })
	s.DeleteObject(manifest.KindClusterNetworkPolicy, store.ObjectName{Name: "c"})
	v.holds("shop/a{app=web}", "shop{a}")
	if len(v.Flawed) > 0 {
		s.Errorf("flawed: %v", v.Flawed)
	}
}

// A policy that cannot be read when a source is asked for the first time has no effect, and is told to have none.
func testUnreadableAtStart(s *policySuite) {
	s.putPolicy("a", "web")
	s.PutUnreadable("c")
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop/a{app=web}", "shop{a}")
	if len(v.Rejected) != 1 || len(v.Flawed) != 1 || !strings.Contains(v.Flawed[0].Err.Error(), "it has no effect") {
		s.Errorf("rejected %v, flawed %v", v.Rejected, v.Flawed)
	}
	s.putClusterPolicy("c", 7)
	v.holds("shop/a{app=web}", "c{Admin 7}", "shop{a}")
	if len(v.Flawed) > 0 {
		s.Errorf("flawed: %v", v.Flawed)
	}
}

func testPoliciesDownAtStart(s *policySuite) {
	s.putPolicy("a", "web")
	s.Stop()
	v := WatchPolicies(s, s.PolicySource())
	<-time.After(200 * time.Millisecond) // it has tried
	if !v.Still() {
		s.Error("something came from a stopped backend")
	}
	s.Start()
	v.holds("shop/a{app=web}", "shop{a}")
}

func testPoliciesOutage(s *policySuite) {
	s.putPolicy("a", "web")
	s.putClusterPolicy("c", 7)
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop/a{app=web}", "c{Admin 7}", "shop{a}")
	s.Stop()
	if !v.Still() {
		s.Error("the outage was told as a change")
	}
	s.Start()
	s.putPolicy("b", "db")
	s.putClusterPolicy("c", 8)
	v.holds("shop/a{app=web}", "shop/b{app=db}", "c{Admin 8}", "shop{a}")
}

func testPoliciesCompacted(s *policySuite) {
	s.putPolicy("a", "web")
	s.putPolicy("b", "db")
	v := WatchPolicies(s, s.PolicySource())
	v.holds("shop/a{app=web}", "shop/b{app=db}", "shop{a}")
	s.Stop()
	s.Start()
	s.DeleteObject(manifest.KindNetworkPolicy, store.ObjectName{Namespace: "shop", Name: "a"})
	s.putPolicy("b", "api")
	s.putPolicy("c", "web")
	s.Compact()
	v.holds("shop/b{app=api}", "shop/c{app=web}", "shop{a}")
}
