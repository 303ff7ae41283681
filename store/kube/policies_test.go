package kube

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/storetest"
	"github.com/twill-cni/twill/test/kubetest"
)

// definition is one of ClusterNetworkPolicy that lets everything through, as a later version's may.
const definition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: clusternetworkpolicies.policy.networking.k8s.io,
  annotations: {api-approved.kubernetes.io: unapproved}},
  spec: {group: policy.networking.k8s.io, scope: Cluster, names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies},
    versions: [{name: v1alpha2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`

// policyHarness is a real API server as the suite of PolicySource sees it.
type policyHarness struct {
	*harness
	dynamic dynamic.Interface
}

func newPolicyHarness(t *testing.T, cluster *kubetest.Cluster) *policyHarness {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Admin())
	must(t, err)
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	h := &policyHarness{newHarness(t, cluster), client}
	t.Cleanup(func() {
		if h.down {
			h.Start()
		}
		for _, ns := range storetest.PolicyNamespaces {
			h.gone(h.api.NetworkingV1().NetworkPolicies(ns).DeleteCollection(h.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
			h.gone(h.api.CoreV1().Pods(ns).DeleteCollection(h.ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}))
		}
		h.gone(h.dynamic.Resource(clusterPolicyResource).DeleteCollection(h.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		for _, ns := range storetest.PolicyNamespaces {
			h.remove(ns)
		}
	})
	return h
}

// remove deletes a namespace that is empty.
func (h *policyHarness) remove(name string) {
	ns, err := h.api.CoreV1().Namespaces().Get(h.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	must(h.t, err)
	must(h.t, h.api.CoreV1().Namespaces().Delete(h.ctx, ns.Name, metav1.DeleteOptions{}))
	ns, err = h.api.CoreV1().Namespaces().Get(h.ctx, name, metav1.GetOptions{})
	if err == nil { // in place of the namespace controller
		ns.Spec.Finalizers = nil
		_, err = h.api.CoreV1().Namespaces().Finalize(h.ctx, ns, metav1.UpdateOptions{})
	}
	h.gone(err)
}

func (h *policyHarness) PolicySource() store.PolicySource { return h.open("node-a") }

func (h *policyHarness) PutObject(d manifest.Document) {
	h.t.Helper()
	switch d.Kind {
	case manifest.KindNamespace:
		namespaces := h.api.CoreV1().Namespaces()
		_, err := namespaces.Update(h.ctx, d.Namespace, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = namespaces.Create(h.ctx, d.Namespace, metav1.CreateOptions{})
		}
		must(h.t, err)
	case manifest.KindNetworkPolicy:
		all := h.api.NetworkingV1().NetworkPolicies(d.Name.Namespace)
		_, err := all.Update(h.ctx, d.NetworkPolicy, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = all.Create(h.ctx, d.NetworkPolicy, metav1.CreateOptions{})
		}
		must(h.t, err)
	default:
		value, err := manifest.Encode(d.ClusterPolicy)
		must(h.t, err)
		h.putClusterPolicy(string(value))
	}
}

func (h *policyHarness) putClusterPolicy(text string) {
	h.t.Helper()
	now := &unstructured.Unstructured{}
	must(h.t, json.Unmarshal([]byte(text), &now.Object))
	all := h.dynamic.Resource(clusterPolicyResource)
	old, err := all.Get(h.ctx, now.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(h.ctx, now, metav1.CreateOptions{})
	} else if err == nil {
		now.SetResourceVersion(old.GetResourceVersion())
		_, err = all.Update(h.ctx, now, metav1.UpdateOptions{})
	}
	must(h.t, err)
}

func (h *policyHarness) PutUnreadable(name string) {
	h.t.Helper()
	h.putClusterPolicy(`{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy","metadata":{"name":"` + name + `"},"spec":{"tier":"Default"}}`)
}

func (h *policyHarness) DeleteObject(kind string, name store.ObjectName) {
	h.t.Helper()
	if kind == manifest.KindNetworkPolicy {
		must(h.t, h.api.NetworkingV1().NetworkPolicies(name.Namespace).Delete(h.ctx, name.Name, metav1.DeleteOptions{}))
		return
	}
	must(h.t, h.dynamic.Resource(clusterPolicyResource).Delete(h.ctx, name.Name, metav1.DeleteOptions{}))
}

func (h *policyHarness) PutPod(pod *corev1.Pod) {
	h.t.Helper()
	pods := h.api.CoreV1().Pods(pod.Namespace)
	old, err := pods.Get(h.ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		old, err = pods.Create(h.ctx, pod.DeepCopy(), metav1.CreateOptions{})
	} else if err == nil {
		old.Labels = pod.Labels
		old, err = pods.Update(h.ctx, old, metav1.UpdateOptions{})
	}
	must(h.t, err)
	old.Status = pod.Status
	_, err = pods.UpdateStatus(h.ctx, old, metav1.UpdateOptions{})
	must(h.t, err)
}

func (h *policyHarness) DeletePod(name store.ObjectName) {
	h.t.Helper()
	must(h.t, h.api.CoreV1().Pods(name.Namespace).Delete(h.ctx, name.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
}

func startPolicyCluster(t *testing.T) *kubetest.Cluster {
	t.Helper()
	cluster := startCluster(t)
	define(t, cluster)
	return cluster
}

func define(t *testing.T, cluster *kubetest.Cluster) {
	t.Helper()
	must(t, cluster.Apply(t.Context(), definition))
	_, err := cluster.Kubectl(t.Context(), "wait", "--for=condition=Established", "crd/clusternetworkpolicies.policy.networking.k8s.io")
	must(t, err)
}

func TestPoliciesContract(t *testing.T) {
	cluster := startPolicyCluster(t)
	storetest.RunPolicies(t, func(t *testing.T) storetest.PolicyHarness { return newPolicyHarness(t, cluster) })
}

// Without a definition of ClusterNetworkPolicies there are none, and the rest is told. A definition that comes later is found.
func TestWithoutClusterPolicies(t *testing.T) {
	cluster := startCluster(t)
	h := newPolicyHarness(t, cluster)
	c := h.open("node-a")
	c.absentFor = 2 * time.Second
	v := storetest.WatchPolicies(t, c)
	v.Until("the namespaces", func() bool { return v.Namespaces["default"] != nil })
	until(t, "health", func() bool { return c.Health() == nil })
	define(t, cluster)
	h.putClusterPolicy(`{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy","metadata":{"name":"c"},
		"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}}}}`)
	v.Until("the policy", func() bool { return v.ClusterPolicies["c"] != nil })
	_, err := cluster.Kubectl(t.Context(), "delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io", "--wait=false")
	must(t, err)
	v.Until("it is gone with the definition", func() bool { return v.ClusterPolicies["c"] == nil })
}

// Who may not read the policies is told which rule is missing, and nothing is told of the rest.
func TestPoliciesForbidden(t *testing.T) {
	cluster := startPolicyCluster(t)
	file, err := cluster.Kubeconfig("twilld")
	must(t, err)
	c, err := Open(Config{Kubeconfig: file, Node: "node-a"}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	v := storetest.WatchPolicies(t, c)
	for _, kind := range []string{"networkpolicies of the API group \"networking.k8s.io\"", "pods of the API group \"\"", "namespaces of the API group \"\"",
		"clusternetworkpolicies of the API group \"policy.networking.k8s.io\""} {
		until(t, "health says "+kind, func() bool {
			return strings.Contains(fmt.Sprint(c.Health()), "for the resource "+kind+" to ClusterRole twill")
		})
	}
	if !v.Still() {
		t.Error("something was told")
	}
}

// policyPod returns one of many pods.
func policyPod(i int) *corev1.Pod {
	p := storetest.TestPolicyPod(fmt.Sprint("pod-", i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	p.Labels = map[string]string{"app": fmt.Sprint("app-", i%500), "pod-template-hash": fmt.Sprint("7d9c6b", i%500), "tier": "backend"}
	p.Spec.NodeName = fmt.Sprint("node-", i%1000)
	return p
}

func TestPolicyAccumulator(t *testing.T) {
	a := newPolicyAccumulator()
	pods, namespaces := podStore{a.add(a.pod)}, a.add(a.namespace)
	trim := pods.Transformer()
	pod := policyPod(1)
	trimmed, err := trim(pod)
	must(t, err)
	must(t, pods.Replace([]any{trimmed}, "1"))
	if _, ok := a.take(); ok {
		t.Error("told before everything was listed")
	}
	must(t, namespaces.Replace(nil, "1"))
	c, ok := a.take()
	if !ok || !c.Reset || len(c.Pods) != 1 {
		t.Errorf("have %+v", c)
	}
	must(t, pods.Update(pod))
	if c, ok := a.take(); ok {
		t.Errorf("what says the same was told: %+v", c)
	}
	// The list after an outage has it on another node: the old one is gone.
	moved := pod.DeepCopy()
	moved.Spec.NodeName = "elsewhere"
	must(t, pods.Replace([]any{moved}, "9"))
	c, _ = a.take()
	name := store.ObjectName{Namespace: "shop", Name: "pod-1"}
	if p, told := c.Pods[store.PodKey{Node: "node-1", Name: name}]; !told || p != nil || c.Pods[store.PodKey{Node: "elsewhere", Name: name}] == nil || len(c.Pods) != 2 {
		t.Errorf("have %+v", c.Pods)
	}
	moved.Status.Phase = corev1.PodFailed
	must(t, pods.Update(moved))
	if c, _ = a.take(); len(c.Pods) != 1 || len(a.podNode) != 0 {
		t.Errorf("have %+v", c.Pods)
	}
	must(t, pods.Delete(moved))
	if _, ok := a.take(); ok {
		t.Error("it is gone twice")
	}
}
