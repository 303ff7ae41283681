package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// agentNotReady is the key of the taint with which kubelet (--register-with-taints) keeps pods away until the node has a network.
const agentNotReady = "twill-cni.github.io/agent-not-ready"

// The reasons of the condition NetworkUnavailable, when it is ours.
const (
	reasonUp      = "TwillIsUp"
	reasonRemoved = "TwillIsRemoved"
)

// What is known of the node's state to those who place pods on it.
var (
	isUp = corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: reasonUp,
		Message: "Twill serves the pods of this node"}
	isRemoved = corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: reasonRemoved,
		Message: "Twill was removed from this node"}
)

var (
	mayList      = rule{"list", "", "nodes", "to read this Node"}
	mayCondition = rule{"patch", "", "nodes/status", "to set the condition NetworkUnavailable"}
	mayAnnotate  = rule{"patch", "", "nodes/status", "to publish the node's addresses"}
	mayTaint     = rule{"patch", "", "nodes", "to remove the taint " + agentNotReady + " (removeTaint: true of the Helm chart)"}
)

// taintTries is how often the Node's taints may change while ours is about to be removed, before that counts as a failure.
const taintTries = 5

var errNoNode = errors.New("there is no such Node: it has the name that kubelet registers; see --node-name")

// readNode reads this Node. It is a list of one, since the daemon, which watches Nodes, may list them anyway.
func (c *Client) readNode(ctx context.Context) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", c.node).String()})
	if err == nil && len(list.Items) != 1 {
		err = errNoNode
	}
	if err != nil {
		return nil, fmt.Errorf("read Node %s: %w", c.node, forbidden(err, mayList))
	}
	return &list.Items[0], nil
}

// patchNode changes a Node, or a subresource of it, and returns what it is then.
func (c *Client) patchNode(ctx context.Context, name string, kind types.PatchType, patch any, need rule, subresources ...string) (*corev1.Node, error) {
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	n, err := c.api.CoreV1().Nodes().Patch(ctx, name, kind, data, metav1.PatchOptions{FieldManager: reporter}, subresources...)
	return n, forbidden(err, need)
}

// setCondition makes the condition what it should be, and leaves alone one that is that already.
func (c *Client) setCondition(ctx context.Context, n *corev1.Node, want corev1.NodeCondition) error {
	change := conditionChange(n.Status.Conditions, want, time.Now())
	if change == nil {
		return nil
	}
	patch := map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{*change}}} // merged by type
	if _, err := c.patchNode(ctx, c.node, types.StrategicMergePatchType, patch, mayCondition, "status"); err != nil {
		return fmt.Errorf("set the condition %s of Node %s: %w", want.Type, c.node, err)
	}
	c.log.Info("the Node's condition was set", "condition", want.Type, "status", want.Status, "reason", want.Reason)
	return nil
}

// conditionChange returns the condition to write, nil when it is right already. What another network says the same of (flannel's FlannelIsUp)
// becomes ours; the time of transition stays that of the status.
func conditionChange(have []corev1.NodeCondition, want corev1.NodeCondition, now time.Time) *corev1.NodeCondition {
	want.LastHeartbeatTime, want.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	for _, h := range have {
		if h.Type != want.Type || h.Status != want.Status {
			continue
		}
		if h.Reason == want.Reason {
			return nil
		}
		want.LastTransitionTime = h.LastTransitionTime
	}
	return &want
}

// removeTaint removes the taint. Taints are one list, which any number of controllers write: the patch removes an element if it still is
// where it was seen, and what others add at the same time stays.
func (c *Client) removeTaint(ctx context.Context, n *corev1.Node) error {
	for range taintTries {
		patch := taintPatch(n.Spec.Taints)
		if patch == nil {
			return nil
		}
		after, err := c.patchNode(ctx, c.node, types.JSONPatchType, patch, mayTaint)
		switch {
		case err == nil:
			c.log.Info("pods may come: the Node's taint was removed", "taint", agentNotReady)
		case apierrors.IsInvalid(err), apierrors.IsConflict(err): // Invalid: a test of the patch failed
			after, err = c.readNode(ctx)
		}
		if err != nil {
			return fmt.Errorf("remove the taint %s of Node %s: %w", agentNotReady, c.node, err)
		}
		n = after
	}
	return fmt.Errorf("remove the taint %s of Node %s: the Node's taints change all the time", agentNotReady, c.node)
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string        `json:"op"`
	Path  string        `json:"path"`
	Value *corev1.Taint `json:"value,omitempty"`
}

// taintPatch removes our taint, whatever its effects, from behind: so the places of those before do not change. It is nil when there is none.
func taintPatch(taints []corev1.Taint) []operation {
	var patch []operation
	for i := len(taints) - 1; i >= 0; i-- {
		if taints[i].Key == agentNotReady {
			path := fmt.Sprint("/spec/taints/", i)
			patch = append(patch, operation{"test", path, &taints[i]}, operation{Op: "remove", Path: path})
		}
	}
	return patch
}

// removed says that the node has no network any more, if the last word on that was Twill's: the node may have been given to another network.
func (c *Client) removed(ctx context.Context) error {
	n, err := c.readNode(ctx)
	if errors.Is(err, errNoNode) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, have := range n.Status.Conditions {
		if have.Type == isUp.Type && have.Reason == reasonUp {
			return c.setCondition(ctx, n, isRemoved)
		}
	}
	return nil
}
