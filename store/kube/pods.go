package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// What the API server is asked for: pods that have not ended. To the watch, one that ends is one that is gone. That a pod uses its node's network can be
// asked since Kubernetes 1.28.
const (
	runningPods      = "status.phase!=Succeeded,status.phase!=Failed"
	podsOfTheNetwork = runningPods + ",spec.hostNetwork=false"
)

// pods is the reflection of all pods of the cluster that policies can be about.
func (c *Client) pods(a *policyAccumulator) reflection {
	core := c.api.CoreV1()
	// The list, which comes before every watch, finds out what can be asked for. A Reflector lists and watches in one goroutine.
	selector := podsOfTheNetwork
	ask := func(f func() error) error {
		err := f()
		if apierrors.IsBadRequest(err) && selector == podsOfTheNetwork {
			selector = runningPods
			err = f()
		}
		return err
	}
	return reflection{
		kind: "Pod", example: &corev1.Pod{}, to: podStore{a.add(a.pod)},
		resource: "pods", purpose: "to know which ones policies select",
		list: func(ctx context.Context, o metav1.ListOptions) (list runtime.Object, err error) {
			err = ask(func() error {
				o.FieldSelector = selector
				list, err = core.Pods("").List(ctx, o)
				return err
			})
			return list, err
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (w watch.Interface, err error) {
			err = ask(func() error {
				o.FieldSelector = selector
				w, err = core.Pods("").Watch(ctx, o)
				return err
			})
			return w, err
		},
		stream: true,
	}
}

// podStore has the Reflector keep trimmed pods while the first ones come in: a pod is some 10 KB, of which a peer needs 500 bytes.
type podStore struct{ *objects }

var _ cache.TransformingStore = podStore{}

// Transformer implements cache.TransformingStore.
func (podStore) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if p, ok := object.(*corev1.Pod); ok {
			return &trimmedPod{metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, manifest.FromPod(p)}, nil
		}
		return object, nil
	}
}

// trimmedPod is what is kept of a pod. Of its metadata that is the name, by which the Reflector tells pods apart.
type trimmedPod struct {
	metav1.ObjectMeta
	pod *store.Pod // nil when policies are not about it
}
