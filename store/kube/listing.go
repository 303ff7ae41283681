package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
)

const (
	listPage  = 500    // Nodes in one answer
	mostNodes = 20_000 // that are listed
)

var _ store.NodeLister = (*Client)(nil)

// ListNodes implements store.NodeLister. A Node that has not registered has no lease; that of one that has does not expire.
func (c *Client) ListNodes(ctx context.Context, _ store.NodeDetail) ([]store.NodeEntry, error) {
	var all []store.NodeEntry
	options := metav1.ListOptions{Limit: listPage}
	for {
		page, err := c.api.CoreV1().Nodes().List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list Nodes: %w", err)
		}
		for i := range page.Items {
			all = append(all, c.entry(&page.Items[i]))
		}
		if options.Continue = page.Continue; options.Continue == "" || len(all) >= mostNodes {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b store.NodeEntry) int {
		return cmp.Or(a.Subnets.Compare(b.Subnets), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (c *Client) entry(n *corev1.Node) store.NodeEntry {
	e := store.NodeEntry{Name: n.Name, Created: n.CreationTimestamp.Time}
	if zone, ok := n.Labels[store.ZoneLabel]; ok {
		e.Labels = map[string]string{store.ZoneLabel: zone} // the others are Kubernetes' business
	}
	e.Subnets, e.Err = c.subnets(n)
	if lease, err := c.lease(n); err != nil {
		e.Err = err
	} else {
		e.Lease = lease
	}
	return e
}
