package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

var _ store.ServiceSource = (*Client)(nil)

// notHeadless selects what a proxy has to know: the slices of a headless Service are DNS's.
const notHeadless = "!" + corev1.IsHeadlessService

// WatchServices implements store.ServiceSource.
func (c *Client) WatchServices(ctx context.Context, emit func(store.ServiceChanges)) error {
	f, ok := c.nodes.follow(c.node)
	if !ok {
		return errClosed
	}
	defer f.close()
	a := newAccumulator()
	core, discovery, networking := c.api.CoreV1(), c.api.DiscoveryV1(), c.api.NetworkingV1()
	kinds := []reflection{
		{
			kind: "Service", example: &corev1.Service{}, to: a.add(a.service),
			resource: "services", purpose: "to serve them",
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return core.Services("").List(ctx, o)
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return core.Services("").Watch(ctx, o)
			},
		},
		{
			kind: "EndpointSlice", example: &discoveryv1.EndpointSlice{}, to: a.add(a.slice),
			group: discoveryv1.GroupName, resource: "endpointslices", purpose: "to know where Services lead to",
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = notHeadless
				return discovery.EndpointSlices("").List(ctx, o)
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = notHeadless
				return discovery.EndpointSlices("").Watch(ctx, o)
			},
		},
		{
			kind: "ServiceCIDR", example: &networkingv1.ServiceCIDR{}, to: a.add(a.serviceCIDR),
			group: networkingv1.GroupName, resource: "servicecidrs", purpose: "to know the addresses of Services",
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				list, err := networking.ServiceCIDRs().List(ctx, o)
				if apierrors.IsNotFound(err) {
					return &networkingv1.ServiceCIDRList{}, nil // before Kubernetes 1.33
				}
				return list, err
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				w, err := networking.ServiceCIDRs().Watch(ctx, o)
				if apierrors.IsNotFound(err) {
					return silence(c.absentFor), nil
				}
				return w, err
			},
		},
	}
	return c.gather(ctx, kinds, func(ctx context.Context) { a.run(ctx, f, c.node, emit) })
}

// accumulator gathers what the reflectors deliver until it is told.
type accumulator struct {
	gathering
	host    bool // this node's own state was told
	told    bool // the first change was
	pending store.ServiceChanges
	empty   bool // pending is
	cidrs   map[string][]netip.Prefix
}

func newAccumulator() *accumulator {
	a := &accumulator{gathering: newGathering(), cidrs: map[string][]netip.Prefix{}}
	a.clear()
	return a
}

func (a *accumulator) clear() {
	a.pending = store.ServiceChanges{Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{}}
	a.empty = true
}

// add makes the store of one more kind.
func (a *accumulator) add(apply func(store.ObjectName, any)) *objects {
	return a.gathering.add(func(name store.ObjectName, object any) {
		apply(name, object)
		a.empty = false
	})
}

// run tells what has come, as long as ctx lasts. f follows the node with that name.
func (a *accumulator) run(ctx context.Context, f *follower, node string, emit func(store.ServiceChanges)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			changed, ok := f.take()
			if n, there := changed[node]; ok && (there || !a.host) {
				a.change(func() { a.node(n) })
			}
			continue
		case <-a.wake:
		}
		if c, ok := a.take(); ok {
			emit(c)
		}
	}
}

// take returns what is to be told. Before every kind was listed it is nothing: half of what there is would take endpoints from Services.
func (a *accumulator) take() (c store.ServiceChanges, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.empty || !a.host || !a.listed() {
		return c, false
	}
	c = a.pending
	c.Reset = !a.told
	a.told = true
	a.clear()
	return c, true
}

func (a *accumulator) service(name store.ObjectName, object any) {
	svc, ok := object.(*corev1.Service)
	if !ok {
		a.pending.Services[name] = nil
		return
	}
	converted, err := manifest.FromService(svc)
	if err != nil {
		a.reject(name, err)
		return
	}
	a.pending.Services[name] = converted
}

func (a *accumulator) slice(name store.ObjectName, object any) {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		a.pending.Slices[name] = nil
		return
	}
	converted, err := manifest.FromEndpointSlice(slice)
	if err != nil {
		a.reject(name, err)
		return
	}
	a.pending.Slices[name] = converted // nil when it is nobody's
}

func (a *accumulator) reject(name store.ObjectName, err error) {
	a.pending.Rejected = append(a.pending.Rejected, store.Reject{Key: name.String(), Err: err})
}

// node takes in what is known of this node; nil when it is not there.
func (a *accumulator) node(n *corev1.Node) {
	zone, eligible := "", false
	if n != nil {
		zone = n.Labels[corev1.LabelTopologyZone]
		eligible = n.DeletionTimestamp.IsZero() && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeleted })
	}
	a.pending.Zone, a.pending.NodeEligible = &zone, &eligible
	a.host, a.empty = true, false
}

// toBeDeleted is the taint that the cluster autoscaler puts on a node that it is about to remove.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

func (a *accumulator) serviceCIDR(name store.ObjectName, object any) {
	delete(a.cidrs, name.Name)
	if cidr, ok := object.(*networkingv1.ServiceCIDR); ok {
		for _, text := range cidr.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				a.reject(name, fmt.Errorf("spec.cidrs: %w", err))
				continue
			}
			a.cidrs[name.Name] = append(a.cidrs[name.Name], prefix.Masked())
		}
	}
	all := []netip.Prefix{}
	for _, prefixes := range a.cidrs {
		all = append(all, prefixes...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	a.pending.Networks = slices.Compact(all)
}
