package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/policies"
)

var _ store.PolicySource = (*Client)(nil)

// WatchPolicies implements store.PolicySource. ClusterNetworkPolicies are those of an API server that has their definition; without it there are none,
// until one is found (absentFor).
func (c *Client) WatchPolicies(ctx context.Context, emit func(store.PolicyChanges)) error {
	a := newPolicyAccumulator()
	networking := c.api.NetworkingV1()
	kinds := []reflection{
		{
			kind: "NetworkPolicy", example: &networkingv1.NetworkPolicy{}, to: a.add(a.policy),
			group: networkingv1.GroupName, resource: "networkpolicies", purpose: "to enforce them",
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return networking.NetworkPolicies("").List(ctx, o)
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return networking.NetworkPolicies("").Watch(ctx, o)
			},
		},
		c.namespaces(a),
		c.pods(a),
		c.clusterPolicies(a),
	}
	return c.gather(ctx, kinds, func(ctx context.Context) { a.run(ctx, emit) })
}

// namespaces is the reflection of Namespaces.
func (c *Client) namespaces(a *policyAccumulator) reflection {
	core := c.api.CoreV1()
	return reflection{
		kind: "Namespace", example: &corev1.Namespace{}, to: a.add(a.namespace),
		resource: "namespaces", purpose: "to know which ones policies select",
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return core.Namespaces().List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return core.Namespaces().Watch(ctx, o)
		},
	}
}

var clusterPolicyResource = schema.GroupVersionResource{Group: manifest.ClusterPolicyGroup, Version: manifest.ClusterPolicyVersion, Resource: manifest.ClusterPolicyResource}

// clusterPolicies is the reflection of ClusterNetworkPolicies.
func (c *Client) clusterPolicies(a *policyAccumulator) reflection {
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(clusterPolicyResource.GroupVersion().WithKind(manifest.KindClusterNetworkPolicy))
	resource := c.dynamic.Resource(clusterPolicyResource)
	return reflection{
		kind: "ClusterNetworkPolicy", example: example, to: a.add(a.clusterPolicy),
		group: manifest.ClusterPolicyGroup, resource: manifest.ClusterPolicyResource, purpose: "to enforce them",
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, o)
			if apierrors.IsNotFound(err) {
				return &unstructured.UnstructuredList{}, nil
			}
			return list, err
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := resource.Watch(ctx, o)
			if apierrors.IsNotFound(err) {
				return silence(c.absentFor), nil
			}
			return w, err
		},
	}
}

// policyAccumulator gathers what the reflectors deliver until it is told.
type policyAccumulator struct {
	gathering
	table   *policies.Table
	podNode map[store.ObjectName]string // the nodes of the pods in table
}

func newPolicyAccumulator() *policyAccumulator {
	return &policyAccumulator{gathering: newGathering(), table: policies.New(false), podNode: map[store.ObjectName]string{}}
}

// run tells what has come, as long as ctx lasts.
func (a *policyAccumulator) run(ctx context.Context, emit func(store.PolicyChanges)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		if c, ok := a.take(); ok {
			emit(c)
		}
	}
}

// take returns what is to be told. Before every kind was listed it is nothing: half of what there is would open what policies close, or close what
// they open.
func (a *policyAccumulator) take() (store.PolicyChanges, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.listed() {
		return store.PolicyChanges{}, false
	}
	return a.table.Take()
}

func (a *policyAccumulator) policy(name store.ObjectName, object any) {
	p, ok := object.(*networkingv1.NetworkPolicy)
	if !ok {
		a.table.SetPolicy(name, nil)
		return
	}
	converted, err := manifest.FromNetworkPolicy(p)
	if converted != nil {
		a.table.SetPolicy(name, converted)
	}
	a.reject(policies.PolicyKey(name), err)
}

func (a *policyAccumulator) clusterPolicy(name store.ObjectName, object any) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		a.table.SetClusterPolicy(name.Name, nil)
		return
	}
	converted, err := fromUnstructured(u)
	if converted != nil {
		a.table.SetClusterPolicy(name.Name, converted)
	}
	a.reject(policies.ClusterPolicyKey(name.Name), err)
}

// fromUnstructured reads what a policy demands, and not what is said about it.
func fromUnstructured(u *unstructured.Unstructured) (*store.ClusterNetworkPolicy, error) {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": u.GetName()}, "spec": u.Object["spec"]})
	if err != nil {
		return nil, fmt.Errorf("cluster network policy %s: %w", u.GetName(), err)
	}
	p, err := manifest.DecodeClusterNetworkPolicy(u.GetName(), data)
	if err != nil {
		return nil, err
	}
	return manifest.FromClusterNetworkPolicy(p)
}

func (a *policyAccumulator) namespace(name store.ObjectName, object any) {
	if ns, ok := object.(*corev1.Namespace); ok {
		a.table.SetNamespace(name.Name, manifest.FromNamespace(ns))
		return
	}
	a.table.SetNamespace(name.Name, nil)
}

// reject tells of what cannot be read, if there is such.
func (a *policyAccumulator) reject(key string, err error) {
	if err != nil {
		a.table.Reject(store.Reject{Key: key, Err: err})
	}
}

// pod takes in what is known of a pod. One that was made anew on another node under its name, as a StatefulSet does, has another key.
func (a *policyAccumulator) pod(name store.ObjectName, object any) {
	var now *store.Pod
	switch p := object.(type) {
	case *corev1.Pod:
		now = manifest.FromPod(p)
	case *trimmedPod:
		now = p.pod
	}
	if node, known := a.podNode[name]; known && (now == nil || now.Node != node) {
		a.table.SetPod(store.PodKey{Node: node, Name: name}, nil)
		delete(a.podNode, name)
	}
	if now != nil {
		a.podNode[name] = now.Node
		a.table.SetPod(now.Key(), now)
	}
}
