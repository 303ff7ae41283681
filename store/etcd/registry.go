package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// ErrNotFound says that there is no such object.
var ErrNotFound = errors.New("not found")

// The folders of the registry, below <prefix>/registry/.
const (
	servicesFolder = "services/"
	slicesFolder   = "endpointslices/"
	podsFolder     = "pods/"
	registryConfig = "config"

	networkPoliciesFolder = "networkpolicies/"
	clusterPoliciesFolder = "clusternetworkpolicies/"
	namespacesFolder      = "namespaces/"
)

// registryPrefix starts the key of everything that says what Services are and who is behind them.
func (s *Store) registryPrefix() string { return s.cfg.Prefix + "/registry/" }

// allocationPrefix starts the keys that say what is allocated; it is not below registryPrefix, so that those who follow Services do not read it.
func (s *Store) allocationPrefix() string { return s.cfg.Prefix + "/allocations/" }

func (s *Store) serviceKey(name store.ObjectName) string {
	return s.registryPrefix() + servicesFolder + name.String()
}

func (s *Store) sliceKey(name store.ObjectName) string {
	return s.registryPrefix() + slicesFolder + name.String()
}

// parseObjectName reads NAMESPACE/NAME.
func parseObjectName(text string) (store.ObjectName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return store.ObjectName{}, fmt.Errorf("key %q: want NAMESPACE/NAME", text)
	}
	return store.ObjectName{Namespace: namespace, Name: name}, nil
}

// parsePodKey reads NODE/NAMESPACE/NAME.
func parsePodKey(text string) (store.PodKey, error) {
	node, rest, _ := strings.Cut(text, "/")
	name, err := parseObjectName(rest)
	if err != nil || node == "" {
		return store.PodKey{}, fmt.Errorf("key %q: want NODE/NAMESPACE/NAME", text)
	}
	return store.PodKey{Node: node, Name: name}, nil
}

// Registry is what etcd holds of Services and policies at one time, sorted by name.
type Registry struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice // written by hand
	Pods     []*store.Pod

	NetworkPolicies []*networkingv1.NetworkPolicy
	ClusterPolicies []*manifest.ClusterNetworkPolicy
	Namespaces      []*corev1.Namespace // those with a record

	Rejected []store.Reject // what cannot be read
}

// Registry reads everything that etcd holds of Services and policies.
func (s *Store) Registry(ctx context.Context) (Registry, error) {
	var r Registry
	_, err := s.scan(ctx, s.registryPrefix(), func(name string, kv *mvccpb.KeyValue) {
		if err := r.add(name, kv.Value); err != nil {
			r.Rejected = append(r.Rejected, store.Reject{Key: name, Err: err})
		}
	})
	if err != nil {
		return Registry{}, fmt.Errorf("read Services from %s: %w", s.cfg, err)
	}
	// etcd's order is that of whole keys, where a-b/c comes before a/c.
	byName := func(a, b store.ObjectName) int { return a.Compare(b) }
	slices.SortFunc(r.Services, func(a, b *corev1.Service) int { return byName(nameOf(a), nameOf(b)) })
	slices.SortFunc(r.Slices, func(a, b *discoveryv1.EndpointSlice) int { return byName(nameOf(a), nameOf(b)) })
	slices.SortFunc(r.NetworkPolicies, func(a, b *networkingv1.NetworkPolicy) int { return byName(nameOf(a), nameOf(b)) })
	slices.SortFunc(r.Pods, func(a, b *store.Pod) int { return cmp.Or(byName(a.Name, b.Name), strings.Compare(a.Node, b.Node)) })
	return r, nil
}

func (r *Registry) add(name string, value []byte) error {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder += "/"; folder {
	case clusterPoliciesFolder, namespacesFolder:
		return r.addClusterScoped(folder, rest, value)
	case podsFolder:
		key, err := parsePodKey(rest)
		if err != nil {
			return err
		}
		pod, err := store.DecodePod(key, value)
		return keep(&r.Pods, pod, err)
	case servicesFolder, slicesFolder, networkPoliciesFolder:
	default:
		return nil
	}
	n, err := parseObjectName(rest)
	if err != nil {
		return err
	}
	switch folder {
	case servicesFolder:
		svc, err := manifest.DecodeService(n, value)
		return keep(&r.Services, svc, err)
	case slicesFolder:
		slice, err := manifest.DecodeEndpointSlice(n, value)
		return keep(&r.Slices, slice, err)
	}
	policy, err := manifest.DecodeNetworkPolicy(n, value)
	return keep(&r.NetworkPolicies, policy, err)
}

func (r *Registry) addClusterScoped(folder, name string, value []byte) error {
	if err := checkSingleName(name); err != nil {
		return err
	}
	if folder == namespacesFolder {
		ns, err := manifest.DecodeNamespace(name, value)
		return keep(&r.Namespaces, ns, err)
	}
	policy, err := manifest.DecodeClusterNetworkPolicy(name, value)
	return keep(&r.ClusterPolicies, policy, err)
}

// keep appends an object that was read well.
func keep[T any](all *[]*T, object *T, err error) error {
	if err == nil {
		*all = append(*all, object)
	}
	return err
}

func nameOf(o interface {
	GetNamespace() string
	GetName() string
}) store.ObjectName {
	return store.ObjectName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// serviceConfig reads the configuration of Services' addresses, and the revision at which that was last changed, 0 for never.
func (s *Store) serviceConfig(ctx context.Context) (store.ServiceConfig, int64, error) {
	network, err := s.Network(ctx)
	if err != nil && !errors.Is(err, store.ErrNoNetwork) {
		return store.ServiceConfig{}, 0, err
	}
	key := s.registryPrefix() + registryConfig
	kv, _, err := s.get(ctx, key)
	if err != nil {
		return store.ServiceConfig{}, 0, err
	}
	var data []byte
	var revision int64
	if kv != nil {
		data, revision = kv.Value, kv.ModRevision
	}
	c, err := store.ParseServiceConfig(data, network)
	if err != nil {
		return c, 0, fmt.Errorf("%s: %w", key, err)
	}
	return c, revision, nil
}

// maxTxn is how many operations etcd takes in one transaction, unless its --max-txn-ops says otherwise.
const maxTxn = 128

// exchange applies ops when all guards hold. Otherwise it returns the values of the keys asked for, by key, and errRaced.
func (s *Store) exchange(ctx context.Context, guards []clientv3.Cmp, ops []clientv3.Op, ask []string) (map[string]string, error) {
	if max(len(guards), len(ops)) > maxTxn {
		return nil, fmt.Errorf("%d changes have to be made at once; etcd takes %d: use fewer ports or smaller objects", max(len(guards), len(ops)), maxTxn)
	}
	var otherwise []clientv3.Op
	for _, key := range ask {
		otherwise = append(otherwise, clientv3.OpGet(key))
	}
	var resp *clientv3.TxnResponse
	err := s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (_ int64, err error) {
		if resp, err = cli.Txn(ctx).If(guards...).Then(ops...).Else(otherwise...).Commit(); err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	})
	if err != nil || resp.Succeeded {
		return nil, err
	}
	found := map[string]string{}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			found[string(kv.Key)] = string(kv.Value)
		}
	}
	return found, errRaced
}

// unchanged holds while the key was last changed at that revision; 0: while it is not there.
func unchanged(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}
