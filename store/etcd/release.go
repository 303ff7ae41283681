package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// Release deletes the records of the node with these attributes, so that its subnets are free at once, and returns their subnets. It is for
// a node that leaves the cluster: a Registration that is still open would claim them again. A record that another node took over
// meanwhile stays, and so does one without an etcd lease: the operator reserved those subnets for the node.
func (s *Store) Release(ctx context.Context, node store.Attributes) ([]store.Subnets, error) {
	all, _, err := s.records(ctx)
	if err != nil {
		return nil, fmt.Errorf("release the node's subnets: %w", err)
	}
	var released []store.Subnets
	var errs []error
	for _, r := range all {
		if r.lease == nil || !r.lease.SameNode(node) || r.id == clientv3.NoLease {
			continue
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(r.key), "=", r.mod)
		_, err := s.transact(ctx, []clientv3.Cmp{unchanged}, []clientv3.Op{clientv3.OpDelete(r.key)})
		if err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", r.subnets, err))
			continue
		}
		released = append(released, r.subnets)
	}
	return released, errors.Join(errs...)
}
