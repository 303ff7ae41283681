package etcd

import (
	"context"
	"fmt"
	"strings"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/policies"
)

var _ store.PolicySource = (*Store)(nil)

// WatchPolicies implements store.PolicySource. The pods are those that nodes publish. A Namespace without a record is told while a policy or a pod is
// in it, with the label that has its name alone.
func (s *Store) WatchPolicies(ctx context.Context, emit func(store.PolicyChanges)) error {
	w := &policyWatch{table: policies.New(true), emit: emit}
	return s.followRegistry(ctx, &registryWatch{what: "policies", to: w})
}

// policyWatch is the state of one WatchPolicies.
type policyWatch struct {
	table *policies.Table
	emit  func(store.PolicyChanges)
}

// prepare implements listener.
func (w *policyWatch) prepare(context.Context) error { return nil }

// loaded implements listener.
func (w *policyWatch) loaded(func(string) bool) {}

// reject implements listener.
func (w *policyWatch) reject(r store.Reject) { w.table.Reject(r) }

// publish implements listener.
func (w *policyWatch) publish() {
	if c, ok := w.table.Take(); ok {
		w.emit(c)
	}
}

// remove implements listener.
func (w *policyWatch) remove(name string) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case networkPoliciesFolder:
		if n, err := parseObjectName(rest); err == nil {
			w.table.SetPolicy(n, nil)
		}
	case clusterPoliciesFolder:
		w.table.SetClusterPolicy(rest, nil)
	case namespacesFolder:
		w.table.SetNamespace(rest, nil)
	case podsFolder:
		if key, err := parsePodKey(rest); err == nil {
			w.table.SetPod(key, nil)
		}
	}
}

// decode implements listener.
func (w *policyWatch) decode(name string, value []byte) (take func() error, err error) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case networkPoliciesFolder:
		return w.decodePolicy(rest, value)
	case clusterPoliciesFolder:
		return w.decodeClusterPolicy(rest, value)
	case namespacesFolder:
		if err := checkSingleName(rest); err != nil {
			return nil, err
		}
		object, err := manifest.DecodeNamespace(rest, value)
		return func() error { w.table.SetNamespace(rest, manifest.FromNamespace(object)); return nil }, err
	case podsFolder:
		return decodePod(rest, value, w.table.SetPod)
	}
	return ignored, nil
}

func (w *policyWatch) decodePolicy(rest string, value []byte) (func() error, error) {
	name, err := parseObjectName(rest)
	if err != nil {
		return nil, err
	}
	object, err := manifest.DecodeNetworkPolicy(name, value)
	if err != nil {
		return nil, err
	}
	p, partly := manifest.FromNetworkPolicy(object)
	if p == nil {
		return nil, partly
	}
	return func() error { w.table.SetPolicy(name, p); return partly }, nil // it counts, with what is not understood closed
}

func (w *policyWatch) decodeClusterPolicy(rest string, value []byte) (func() error, error) {
	if err := checkSingleName(rest); err != nil {
		return nil, err
	}
	object, err := manifest.DecodeClusterNetworkPolicy(rest, value)
	if err != nil {
		return nil, err
	}
	p, partly := manifest.FromClusterNetworkPolicy(object)
	if p == nil {
		return nil, partly
	}
	return func() error { w.table.SetClusterPolicy(rest, p); return partly }, nil
}

// checkSingleName refuses what is no NAME.
func checkSingleName(text string) error {
	if text == "" || strings.Contains(text, "/") {
		return fmt.Errorf("key %q: want NAME", text)
	}
	return nil
}
