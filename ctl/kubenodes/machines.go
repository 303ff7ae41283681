package kubenodes

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Machine is a Node of the cluster, whether a daemon is there or not.
type Machine struct {
	Name      string
	Addresses []netip.Addr // its InternalIPs
	Unfit     string       // why pods should not be placed there; empty: they may be
}

// Machines returns all Nodes, sorted by name.
func (c *Cluster) Machines(ctx context.Context) ([]Machine, error) {
	var all []Machine
	options := metav1.ListOptions{Limit: pageSize}
	for {
		nodes, err := c.core.Nodes().List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list the nodes: %w", err)
		}
		for _, n := range nodes.Items {
			all = append(all, machineOf(&n))
		}
		if options.Continue = nodes.Continue; options.Continue == "" || len(all) > most {
			break
		}
	}
	slices.SortFunc(all, func(a, b Machine) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func machineOf(n *corev1.Node) Machine {
	m := Machine{Name: n.Name, Unfit: "it is not Ready"}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			m.Addresses = append(m.Addresses, ip.Unmap())
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			m.Unfit = ""
		}
	}
	switch system := n.Labels[corev1.LabelOSStable]; {
	case n.DeletionTimestamp != nil:
		m.Unfit = "it is being deleted"
	case n.Spec.Unschedulable:
		m.Unfit = "it is cordoned"
	case system != "" && system != "linux":
		m.Unfit = "its system is " + system
	}
	return m
}

// HasServiceAt reports whether an address is the ClusterIP of a Service.
func (c *Cluster) HasServiceAt(ctx context.Context, a netip.Addr) (bool, error) {
	list, err := c.core.Services("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.clusterIP", a.String()).String(), Limit: 1})
	if err != nil {
		return false, fmt.Errorf("look for the Service with the address %s: %w", a, err)
	}
	return len(list.Items) > 0, nil
}
