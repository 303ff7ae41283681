package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
)

// WatchNode implements store.Store: the labels are the Node's, the BGP settings its annotation twill-cni.github.io/bgp.
func (c *Client) WatchNode(ctx context.Context, name string, emit func(store.NodeRecord)) error {
	if err := store.CheckNodeName(name); err != nil {
		return err
	}
	if c.node != "" && name != c.node {
		return fmt.Errorf("watch Node %s: this client follows %s", name, c.node)
	}
	f, ok := c.nodes.follow(name)
	if !ok {
		return errClosed
	}
	defer f.close()
	last, emitted, unread := store.NodeRecord{Name: name}, false, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return errClosed
		case <-f.wake:
		}
		changed, ok := f.take()
		if !ok {
			continue
		}
		n, there := changed[name]
		if !there && emitted {
			continue
		}
		now, err := record(name, n)
		if err != nil {
			if err.Error() != unread {
				c.log.Error("what is said of the Node cannot be read; what was said before stays in force", "err", err)
			}
			unread, now = err.Error(), last
		} else {
			unread = ""
		}
		if !emitted || !now.Equal(last) {
			last, emitted = now, true
			emit(now)
		}
	}
}

// record returns what the operator says of a Node.
func record(name string, n *corev1.Node) (store.NodeRecord, error) {
	if n == nil {
		return store.NodeRecord{Name: name}, nil
	}
	doc := map[string]any{"labels": n.Labels}
	if bgp, ok := n.Annotations[annotationBGP]; ok {
		if !json.Valid([]byte(bgp)) {
			return store.NodeRecord{}, fmt.Errorf("annotation %s of Node %s is not JSON: %.100q", annotationBGP, name, bgp)
		}
		doc["bgp"] = json.RawMessage(bgp)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return store.NodeRecord{}, fmt.Errorf("labels of Node %s: %w", name, err)
	}
	return store.ParseNodeRecord(name, data)
}
