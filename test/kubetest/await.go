package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Await tries until f returns nil, for as long as the cluster's processes are given to be ready. The error is that of the last attempt.
func (c *Cluster) Await(ctx context.Context, what string, f func(context.Context) error) error {
	return await(ctx, c.options.Timeout, what, f)
}

// await tries until f returns nil. The error is that of the last attempt.
func await(ctx context.Context, timeout time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}

// AwaitReady waits until a Node is Ready.
func (c *Cluster) AwaitReady(ctx context.Context, name string) error {
	return c.Await(ctx, "Node "+name+" to be ready", func(ctx context.Context) error {
		var n struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := c.Get(ctx, "/api/v1/nodes/"+name, &n); err != nil {
			return err
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return nil
			}
			if condition.Type == "Ready" {
				return errors.New(condition.Message)
			}
		}
		return errors.New("it says nothing about that")
	})
}

// PodCIDRs returns the Pod networks of a Node, or an error if it has none.
func (c *Cluster) PodCIDRs(ctx context.Context, node string) ([]netip.Prefix, error) {
	var n struct {
		Spec struct{ PodCIDRs []netip.Prefix }
	}
	if err := c.Get(ctx, "/api/v1/nodes/"+node, &n); err != nil {
		return nil, err
	}
	if len(n.Spec.PodCIDRs) == 0 {
		return nil, fmt.Errorf("Node %s has no Pod network", node)
	}
	return n.Spec.PodCIDRs, nil
}
