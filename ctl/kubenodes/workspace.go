package kubenodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What is on a workspace's namespace.
const (
	managedBy   = "app.kubernetes.io/managed-by" // label
	tool        = "twillctl"
	ownerMark   = "twill-cni.github.io/owner" // annotations: who made it,
	aliveMark   = "twill-cni.github.io/alive" // changes as long as its process lives,
	keptMark    = "twill-cni.github.io/kept"  // nobody lives in it any more
	mostDeleted = 3 * time.Minute             // for how long a namespace may go away
	mostClosing = 10 * time.Second            // for the other questions of Close
	looking     = 250 * time.Millisecond
)

// Account is the service account of a workspace's pods. It has no rights.
const Account = "twillctl"

// WorkspaceOptions say whose a workspace is.
type WorkspaceOptions struct {
	Name  string        // of the namespace
	Owner string        // who is told of to others
	Beat  time.Duration // how often it is said that the owner lives; default 5 s
}

// Workspace is a namespace that a tool has made for a while, for pods that need no rights. Its methods may be called concurrently.
type Workspace struct {
	cluster *Cluster
	options WorkspaceOptions
	uid     types.UID
	silence context.CancelFunc
	beating sync.WaitGroup
}

// OpenWorkspace makes the namespace, in which pods may be no more than the Pod Security Standard "restricted" lets them. One that somebody lives in is an error; what a killed process left,
// which is known by three beats without a sign of life, and what was kept, is removed first. No clock is compared with another's. A namespace of that name that no tool of
// Twill's has made is left alone.
func (c *Cluster) OpenWorkspace(ctx context.Context, o WorkspaceOptions) (*Workspace, error) {
	o.Beat = cmp.Or(o.Beat, 5*time.Second)
	want := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name,
		Labels:      map[string]string{managedBy: tool, "pod-security.kubernetes.io/enforce": "restricted"},
		Annotations: map[string]string{ownerMark: o.Owner}}}
	made, err := c.core.Namespaces().Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		if err := c.reclaim(ctx, o); err != nil {
			return nil, err
		}
		made, err = c.core.Namespaces().Create(ctx, want, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("make the namespace %s: %w", o.Name, err)
	}
	w := &Workspace{cluster: c, options: o, uid: made.UID}
	beating, silence := context.WithCancel(context.WithoutCancel(ctx)) // until Close has ended, also of what was interrupted
	w.silence = silence
	w.beating.Go(func() { w.beat(beating) })
	// The account "default" comes when a controller has time for it, and no pod before it.
	no := false
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Account}, AutomountServiceAccountToken: &no}
	if _, err := c.core.ServiceAccounts(o.Name).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		err = fmt.Errorf("make the service account of %s: %w", o.Name, err)
		return nil, errors.Join(err, w.Close(context.WithoutCancel(ctx), false))
	}
	return w, nil
}

// reclaim removes a namespace in which nobody lives.
func (c *Cluster) reclaim(ctx context.Context, o WorkspaceOptions) error {
	first, err := c.core.Namespaces().Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("look at the namespace %s: %w", o.Name, err)
	case first.Labels[managedBy] != tool:
		return fmt.Errorf("the namespace %s is not of twillctl's making (it lacks the label %s=%s): give what is in it another place, and delete it", o.Name, managedBy, tool)
	case first.DeletionTimestamp != nil:
		return c.gone(ctx, o.Name, first.UID)
	}
	if first.Annotations[keptMark] == "" {
		select {
		case <-time.After(3 * o.Beat):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// With the first look's version: who has shown a sign of life since then is not deleted.
	err = c.core.Namespaces().Delete(ctx, o.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &first.UID, ResourceVersion: &first.ResourceVersion}})
	switch {
	case apierrors.IsConflict(err):
		return fmt.Errorf("another test is under way in namespace %s, of %s: wait for its end", o.Name, cmp.Or(first.Annotations[ownerMark], "somebody"))
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("delete the namespace %s: %w", o.Name, err)
	}
	return c.gone(ctx, o.Name, first.UID)
}

// gone waits until the namespace is another one, or none.
func (c *Cluster) gone(ctx context.Context, name string, uid types.UID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, mostDeleted, fmt.Errorf("it takes longer than %v: `kubectl get namespace %s -o yaml` says what is left", mostDeleted, name))
	defer cancel()
	for {
		n, err := c.core.Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && n.UID != uid {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("delete the namespace %s: %w", name, err)
		}
		select {
		case <-time.After(looking):
		case <-ctx.Done():
			return fmt.Errorf("delete the namespace %s: %w", name, context.Cause(ctx))
		}
	}
}

// beat shows signs of life until ctx ends. One that cannot be shown is left out: the next may.
func (w *Workspace) beat(ctx context.Context) {
	for i := 1; ; i++ {
		select {
		case <-time.After(w.options.Beat):
			_ = w.mark(ctx, aliveMark, fmt.Sprint(i))
		case <-ctx.Done():
			return
		}
	}
}

func (w *Workspace) mark(ctx context.Context, annotation, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": w.uid, "annotations": map[string]string{annotation: value}}})
	if err != nil {
		return err
	}
	_, err = w.cluster.core.Namespaces().Patch(ctx, w.options.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// Close deletes the namespace with all that is in it, and waits until it is gone; or keeps it for others to look at, until the next Workspace of that name.
func (w *Workspace) Close(ctx context.Context, keep bool) error {
	defer w.beating.Wait()
	defer w.silence()
	asking, cancel := context.WithTimeout(ctx, mostClosing)
	defer cancel()
	if keep {
		if err := w.mark(asking, keptMark, "true"); err != nil {
			return fmt.Errorf("mark the namespace %s as kept: %w", w.options.Name, err)
		}
		return nil
	}
	err := w.cluster.core.Namespaces().Delete(asking, w.options.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &w.uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // somebody else has deleted it
	}
	if err != nil {
		return fmt.Errorf("delete the namespace %s: %w", w.options.Name, err)
	}
	return w.cluster.gone(ctx, w.options.Name, w.uid)
}

// CreatePod makes a pod.
func (w *Workspace) CreatePod(ctx context.Context, p *corev1.Pod) error {
	if _, err := w.cluster.core.Pods(w.options.Name).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the pod %s: %w", p.Name, err)
	}
	return nil
}

// CreateService makes a Service, and returns it with what it was given.
func (w *Workspace) CreateService(ctx context.Context, s *corev1.Service) (*corev1.Service, error) {
	made, err := w.cluster.core.Services(w.options.Name).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make the Service %s: %w", s.Name, err)
	}
	return made, nil
}

// CreatePolicy makes a NetworkPolicy.
func (w *Workspace) CreatePolicy(ctx context.Context, p *networkingv1.NetworkPolicy) error {
	if _, err := w.cluster.networking.NetworkPolicies(w.options.Name).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the NetworkPolicy %s: %w", p.Name, err)
	}
	return nil
}

// Pod returns a pod as it is now.
func (w *Workspace) Pod(ctx context.Context, name string) (*corev1.Pod, error) {
	p, err := w.cluster.core.Pods(w.options.Name).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("look at the pod %s: %w", name, err)
	}
	return p, nil
}

// Pods returns all pods as they are now.
func (w *Workspace) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := w.cluster.core.Pods(w.options.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the pods of %s: %w", w.options.Name, err)
	}
	return list.Items, nil
}

// Exec runs a command in a pod's only container. The connection is its standard input and output, and lasts until it is closed or ctx ends.
func (w *Workspace) Exec(ctx context.Context, pod string, command ...string) (net.Conn, error) {
	return w.cluster.exec(ctx, w.options.Name, pod, "", command...)
}
