package etcd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/storetest"
)

// policyHarness is etcd as the suite of PolicySource sees it.
type policyHarness struct {
	*serviceHarness
	keys map[store.ObjectName]string // of pods
}

func newPolicyHarness(t testing.TB) *policyHarness {
	return &policyHarness{newServiceHarness(t), map[store.ObjectName]string{}}
}

func (h *policyHarness) PolicySource() store.PolicySource { return h.open() }

func (h *policyHarness) PutObject(d manifest.Document) { h.apply(d) }

func (h *policyHarness) DeleteObject(kind string, name store.ObjectName) {
	h.t.Helper()
	h.eventually("it is deleted", func() bool { return h.writer.Delete(h.ctx(), kind, name) == nil })
}

// PutPod plays the pod's node, which publishes it as long as it has a network of its own.
func (h *policyHarness) PutPod(pod *corev1.Pod) {
	h.t.Helper()
	p := manifest.FromPod(pod)
	if p == nil {
		h.DeletePod(nameOf(pod))
		return
	}
	value, err := p.Value()
	h.must(err)
	h.keys[p.Name] = "registry/pods/" + p.Node + "/" + p.Name.String()
	h.put(h.keys[p.Name], string(value))
}

func (h *policyHarness) DeletePod(name store.ObjectName) {
	h.t.Helper()
	if key := h.keys[name]; key != "" {
		h.delete(key)
		delete(h.keys, name)
	}
}

func (h *policyHarness) PutUnreadable(name string) {
	h.put("registry/clusternetworkpolicies/"+name, `{"metadata":{"name":"`+name+`"},"spec":{"tier":"Default"}}`)
}

func TestPoliciesContract(t *testing.T) {
	storetest.RunPolicies(t, func(t *testing.T) storetest.PolicyHarness { return newPolicyHarness(t) })
}

const policyFile = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {podSelector: {matchLabels: {app: web}}}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}, spec: {tier: Baseline, priority: 7, subject: {namespaces: {}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
`

func TestApplyPolicies(t *testing.T) {
	h := newPolicyHarness(t)
	s := h.open()
	docs, err := manifest.Parse([]byte(policyFile))
	h.must(err)
	apply := func(want Outcome, docs ...manifest.Document) {
		t.Helper()
		for _, d := range docs {
			if outcome, svc, err := s.Apply(h.ctx(), d); err != nil || outcome != want || svc != nil {
				t.Errorf("%s: %s, %v, want %s", manifest.Title(d.Kind, d.Name), outcome, err, want)
			}
		}
	}
	apply(Created, docs...)
	apply(Unchanged, docs...)
	r, err := s.Registry(h.ctx())
	h.must(err)
	if len(r.NetworkPolicies) != 1 || len(r.ClusterPolicies) != 1 || len(r.Namespaces) != 1 || len(r.Rejected) != 0 {
		t.Fatalf("have %+v", r)
	}
	created := r.NetworkPolicies[0].CreationTimestamp
	if created.IsZero() || r.ClusterPolicies[0].CreationTimestamp.IsZero() || r.Namespaces[0].CreationTimestamp.IsZero() || !docs[0].NetworkPolicy.CreationTimestamp.IsZero() {
		t.Errorf("created at %s", created)
	}
	changed, err := manifest.Parse([]byte(strings.NewReplacer("web", "db", "7", "8", "team: a", "team: b").Replace(policyFile)))
	h.must(err)
	apply(Configured, changed...)
	r, err = s.Registry(h.ctx())
	h.must(err)
	if r.NetworkPolicies[0].Spec.PodSelector.MatchLabels["app"] != "db" || !r.NetworkPolicies[0].CreationTimestamp.Equal(&created) || *r.ClusterPolicies[0].Spec.Priority != 8 ||
		r.Namespaces[0].Labels["team"] != "b" {
		t.Errorf("have %+v", r)
	}
	h.put("registry/clusternetworkpolicies/c", "{") // by another hand
	apply(Configured, changed[1])
	for _, d := range docs {
		h.must(s.Delete(h.ctx(), d.Kind, d.Name))
		if err := s.Delete(h.ctx(), d.Kind, d.Name); !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), manifest.Title(d.Kind, d.Name)+":") {
			t.Errorf("have %v", err)
		}
	}
}

// A namespace that nobody has made is there as long as something is in it, with the label that has its name.
func TestNamespacesWithoutRecord(t *testing.T) {
	h := newPolicyHarness(t)
	v := storetest.WatchPolicies(t, h.PolicySource())
	expect := func(want string) {
		t.Helper()
		v.Until("the namespace is "+want, func() bool {
			ns := v.Namespaces["shop"]
			return ns == nil && want == "" || ns != nil && fmt.Sprint(ns.Labels) == want
		})
	}
	const bare = "map[kubernetes.io/metadata.name:shop]"
	docs, err := manifest.Parse([]byte(policyFile))
	h.must(err)
	h.PutPod(storetest.TestPolicyPod("p", "10.244.1.5"))
	expect(bare)
	h.PutObject(docs[0])
	h.PutObject(docs[2])
	expect("map[kubernetes.io/metadata.name:shop team:a]")
	h.DeletePod(store.ObjectName{Namespace: "shop", Name: "p"})
	h.DeleteObject(manifest.KindNamespace, docs[2].Name)
	expect(bare)
	h.DeleteObject(manifest.KindNetworkPolicy, docs[0].Name)
	expect("")
}

func TestPolicyGarbage(t *testing.T) {
	h := newPolicyHarness(t)
	keys := []string{"clusternetworkpolicies/a/b", "clusternetworkpolicies/bad", "namespaces/a/b", "namespaces/bad", "networkpolicies/bad", "networkpolicies/shop/bad", "pods/n1/default/bad"}
	for _, key := range keys {
		h.put("registry/"+key, "7")
	}
	h.put("registry/services/default/bad", "7") // not of policies
	partly := `{"metadata":{"name":"partly","namespace":"shop"},"spec":{"ingress":[{"from":[{"later":{}}]},{"ports":[{"port":80}]}]}}`
	h.put("registry/networkpolicies/shop/partly", partly)
	v := storetest.WatchPolicies(t, h.PolicySource())
	v.Until("the policy that is understood in part", func() bool { return len(v.Policies) == 1 })
	if p := v.Policies[store.ObjectName{Namespace: "shop", Name: "partly"}]; len(p.Ingress) != 2 || len(p.Ingress[1].Ports) != 1 || !p.IsolatesIngress {
		t.Errorf("have %+v", p)
	}
	var have []string
	for _, r := range v.Rejected {
		have = append(have, r.Key)
	}
	if want := strings.Join(append(keys[:6:6], "networkpolicies/shop/partly", keys[6]), " "); strings.Join(have, " ") != want {
		t.Errorf("rejected %q, want %q", have, want)
	}
	h.put("registry/networkpolicies/shop/partly", partly+" ") // the same is wrong with it
	h.put("registry/networkpolicies/shop/partly", "{")
	v.Until("it is rejected for another reason", func() bool { return len(v.Rejected) == len(have)+1 })
	if len(v.Policies) != 1 {
		t.Error("the last good state is gone")
	}
	for _, key := range append(keys, "networkpolicies/shop/partly") {
		h.delete("registry/" + key)
	}
	v.Until("all is gone", func() bool { return len(v.Policies) == 0 && v.Namespaces["shop"] == nil })
}

// An etcd that lost everything opens nothing while people restore it; what nobody restores is gone in the end.
func TestPoliciesWiped(t *testing.T) {
	h := newPolicyHarness(t)
	docs, err := manifest.Parse([]byte(policyFile))
	h.must(err)
	for i := range 20 { // revisions that the new history does not reach
		h.PutService(storetest.TestService("x", int32(1+i)))
	}
	for _, d := range docs {
		h.PutObject(d)
	}
	s := h.open()
	v := storetest.WatchPolicies(t, s)
	v.Until("all", func() bool { return len(v.Policies) == 1 && len(v.ClusterPolicies) == 1 })
	h.eventually("health", func() bool { return s.Health() == nil })
	h.Wipe(storetest.Config4)
	h.PutObject(docs[0])
	v.Until("what nobody restored is gone", func() bool {
		if len(v.Policies) != 1 {
			t.Error("the policy that was restored was gone")
		}
		return len(v.ClusterPolicies) == 0 && v.Namespaces["shop"].Labels["team"] == ""
	})
}
