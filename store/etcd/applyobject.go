package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// folders are those of the kinds whose objects are stored as they are, under one key each.
var folders = map[string]string{
	manifest.KindNetworkPolicy: networkPoliciesFolder, manifest.KindClusterNetworkPolicy: clusterPoliciesFolder, manifest.KindNamespace: namespacesFolder,
}

func (s *Store) objectKey(kind string, name store.ObjectName) string {
	key := s.registryPrefix() + folders[kind]
	if manifest.ClusterScoped(kind) {
		return key + name.Name
	}
	return key + name.String()
}

func (s *Store) applyObject(ctx context.Context, d manifest.Document) (outcome Outcome, err error) {
	err = race(ctx, func(int) error {
		outcome, err = s.tryObject(ctx, d)
		return err
	})
	return outcome, err
}

// tryObject stores the document's object. The error wraps errRaced when another writer was faster.
func (s *Store) tryObject(ctx context.Context, d manifest.Document) (Outcome, error) {
	key := s.objectKey(d.Kind, d.Name)
	kv, _, err := s.get(ctx, key)
	if err != nil {
		return "", err
	}
	created := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	var revision int64
	if kv != nil {
		revision = kv.ModRevision
		var old struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		if json.Unmarshal(kv.Value, &old) == nil && !old.Metadata.CreationTimestamp.IsZero() {
			created = old.Metadata.CreationTimestamp
		}
	}
	value, err := manifest.Encode(createdAt(d, created))
	if err != nil {
		return "", err
	}
	if kv != nil && bytes.Equal(value, kv.Value) {
		return Unchanged, nil
	}
	if _, err := s.exchange(ctx, []clientv3.Cmp{unchanged(key, revision)}, []clientv3.Op{clientv3.OpPut(key, string(value))}, nil); err != nil {
		return "", err
	}
	if kv == nil {
		return Created, nil
	}
	return Configured, nil
}

// createdAt returns the document's object with the time of its creation. The document's own is not changed.
func createdAt(d manifest.Document, created metav1.Time) any {
	switch d.Kind {
	case manifest.KindNetworkPolicy:
		p := *d.NetworkPolicy
		p.CreationTimestamp = created
		return &p
	case manifest.KindClusterNetworkPolicy:
		p := *d.ClusterPolicy
		p.CreationTimestamp = created
		return &p
	}
	ns := *d.Namespace
	ns.CreationTimestamp = created
	return &ns
}
