package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// errRaced says that a transaction found something else than what was read before.
var errRaced = errors.New("the records changed meanwhile")

// record is a lease record as claims see it.
type record struct {
	subnets store.Subnets
	key     string       // in etcd
	lease   *store.Lease // nil when its value cannot be read; its subnets are taken all the same
	id      clientv3.LeaseID
	mod     int64
}

// records reads all records whose key can be read, and etcd's revision.
func (s *Store) records(ctx context.Context) ([]record, int64, error) {
	var all []record
	revision, err := s.scan(ctx, s.leasePrefix(), func(name string, kv *mvccpb.KeyValue) {
		subnets, err := store.ParseKey(name)
		if err != nil {
			return
		}
		lease, err := store.DecodeLease(subnets, kv.Value)
		if err != nil {
			lease = nil
		}
		all = append(all, record{subnets, s.leasePrefix() + name, lease, clientv3.LeaseID(kv.Lease), kv.ModRevision})
	})
	return all, revision, err
}

// Register implements store.Store.
func (s *Store) Register(ctx context.Context, network store.Network, attrs store.Attributes, preferred []store.Subnets) (store.Registration, error) {
	r := &registration{store: s, attrs: attrs, wake: make(chan struct{}, 1), done: make(chan struct{}), lost: make(chan struct{})}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		revision, err := r.register(ctx, network, preferred)
		if err == nil {
			r.start(revision)
			return r, nil
		}
		if !errors.Is(err, errRaced) || !sleep(ctx, rand.N(pause)) {
			r.drop()
			return nil, fmt.Errorf("register the node with %s: %w", s.cfg, err)
		}
	}
}

// register tries once to get a record for the node.
func (r *registration) register(ctx context.Context, network store.Network, preferred []store.Subnets) (int64, error) {
	records, revision, err := r.store.records(ctx)
	if err != nil {
		return 0, err
	}
	own := ownRecord(records, network, r.attrs, preferred)
	var taken []store.Subnets
	for i := range records {
		if &records[i] != own {
			taken = append(taken, records[i].subnets)
		}
	}
	wanted := preferred
	if own != nil {
		wanted = append([]store.Subnets{own.subnets}, preferred...)
	}
	if r.subnets, err = network.Choose(taken, wanted, rand.Uint64N); err != nil {
		return 0, err
	}
	r.key = r.store.leasePrefix() + r.subnets.Key()
	if own != nil && own.key == r.key {
		r.reserved, r.found = own.id == clientv3.NoLease, own.lease
		if revision, err = r.hold(ctx); errors.Is(err, store.ErrLost) {
			return 0, errRaced
		}
		return revision, err
	}
	return r.claim(ctx, own, revision)
}

// ownRecord returns the record that the node should go on with: of its own one that fits the network, and of these a preferred one.
// Its own are those with its public address. When that changed while nobody was there to say so, it is the preferred record
// with the node's backend data, which for vxlan holds the MAC of its device. It returns nil when there is none.
func ownRecord(records []record, network store.Network, attrs store.Attributes, preferred []store.Subnets) *record {
	var own *record
	rank := -1
	for i, rec := range records {
		preferred := slices.Contains(preferred, rec.subnets)
		if rec.lease == nil || !rec.lease.SameNode(attrs) && !(preferred && rec.lease.SameBackend(attrs)) {
			continue
		}
		n := 0
		if network.Fits(rec.subnets) {
			n += 2
		}
		if preferred {
			n++
		}
		if n > rank {
			own, rank = &records[i], n
		}
	}
	return own
}

// claim makes the node's record, in place of old unless that is nil. revision is that of the records among which r.subnets were
// found to be free. The error wraps errRaced when they are not any more.
func (r *registration) claim(ctx context.Context, old *record, revision int64) (int64, error) {
	lease := store.NewLease(r.subnets, r.wanted())
	value, err := lease.Value()
	if err != nil {
		return 0, err
	}
	if err := r.renew(ctx); err != nil {
		return 0, err
	}
	// No other record may have the same IPv4 subnet; a node without one is alone with its IPv6 subnet if its key is new.
	absent := clientv3.Compare(clientv3.Version(r.key), "=", 0)
	if r.subnets.IPv4.IsValid() && (old == nil || old.subnets.IPv4 != r.subnets.IPv4) {
		absent = clientv3.Compare(clientv3.Version(r.store.leasePrefix()+store.Subnets{IPv4: r.subnets.IPv4}.Key()), "=", 0).WithPrefix()
	}
	guards, ops := []clientv3.Cmp{absent}, []clientv3.Op{clientv3.OpPut(r.key, string(value), clientv3.WithLease(r.id))}
	if old != nil {
		guards = append(guards, clientv3.Compare(clientv3.ModRevision(old.key), "=", old.mod))
		ops = append(ops, clientv3.OpDelete(old.key))
	}
	made, err := r.store.transact(ctx, guards, ops)
	if err != nil {
		return 0, fmt.Errorf("claim %s: %w", r.key, err)
	}
	if old != nil || r.subnets.IPv4.IsValid() && r.subnets.IPv6.IsValid() {
		if err := r.verify(ctx, revision, made); err != nil {
			return 0, err
		}
	}
	r.stored(lease)
	r.store.log.Info("subnet claimed", "subnet", r.subnets, "revision", made)
	return made, nil
}

// verify looks for records that were made after the revision since and share a subnet with the record that was made at the
// revision made. Of two that claim one subnet the older stays; the other one's transaction came later and so its verify sees the
// older. When this node's record has to go it is removed.
func (r *registration) verify(ctx context.Context, since, made int64) error {
	prefix := r.store.leasePrefix()
	resp, err := r.store.read(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithMinCreateRev(since+1), clientv3.WithMaxCreateRev(made-1))
	if err != nil {
		return fmt.Errorf("check the claim of %s: %w", r.key, err)
	}
	for _, kv := range resp.Kvs {
		other, err := store.ParseKey(string(kv.Key[len(prefix):]))
		if err != nil || !other.Overlaps(r.subnets) {
			continue
		}
		mine := clientv3.Compare(clientv3.ModRevision(r.key), "=", made)
		if _, err := r.store.transact(ctx, []clientv3.Cmp{mine}, []clientv3.Op{clientv3.OpDelete(r.key)}); err != nil && !errors.Is(err, errRaced) {
			return fmt.Errorf("give %s back: %w", r.key, err)
		}
		return fmt.Errorf("claim %s: %s was faster: %w", r.key, other, errRaced)
	}
	return nil
}

// transact applies ops when all guards hold and returns the revision; it returns errRaced when one does not.
func (s *Store) transact(ctx context.Context, guards []clientv3.Cmp, ops []clientv3.Op) (int64, error) {
	var resp *clientv3.TxnResponse
	err := s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (_ int64, err error) {
		if resp, err = cli.Txn(ctx).If(guards...).Then(ops...).Commit(); err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	})
	switch {
	case err != nil:
		return 0, err
	case !resp.Succeeded:
		return 0, errRaced
	}
	return resp.Header.Revision, nil
}

// renew extends the node's etcd lease, r.id, or has a new one granted when there is none or it is gone or has another TTL.
func (r *registration) renew(ctx context.Context) error {
	if r.reserved {
		return nil
	}
	var err error
	r.id, err = r.store.keepLease(ctx, r.id, int64(r.store.cfg.LeaseTTL.Seconds()))
	return err
}

// drop revokes an etcd lease that no record is attached to. It is best effort: the lease expires in any case.
func (r *registration) drop() {
	if r.id == clientv3.NoLease || r.Lease() != nil || r.found != nil {
		return
	}
	err := r.store.do(r.store.ctx, func(ctx context.Context, cli *clientv3.Client) (int64, error) {
		_, err := cli.Revoke(ctx, r.id)
		return 0, err
	})
	if err != nil {
		r.store.log.Debug("an unused etcd lease is left to expire", "err", err)
	}
}
