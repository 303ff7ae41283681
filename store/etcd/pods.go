package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

// DefaultPodTTL is how long a dead node's pods stay endpoints of Services: as long as Kubernetes takes to give a node up.
const DefaultPodTTL = 40 * time.Second

// podBatch is how many records are written at once.
const podBatch = 100

// PodPublisher tells the cluster of one node's pods, in records below <prefix>/registry/pods/<node>/ that are attached to an etcd lease of
// their own: the node's lease holds its subnet and is to outlive long outages, while pods of a dead node are to vanish soon.
type PodPublisher struct {
	store *Store
	node  string
	wake  chan struct{} // of length 1

	mu     sync.Mutex
	wanted []*store.Pod

	id clientv3.LeaseID // Run's alone
}

var _ store.PodPublisher = (*PodPublisher)(nil)

// Pods returns the publisher of a node's pods. It does nothing before Run.
func (s *Store) Pods(node string) (*PodPublisher, error) {
	if err := store.CheckNodeName(node); err != nil {
		return nil, fmt.Errorf("publish pods: %w", err)
	}
	return &PodPublisher{store: s, node: node, wake: make(chan struct{}, 1)}, nil
}

// Publish implements store.PodPublisher.
func (p *PodPublisher) Publish(pods []*store.Pod) {
	p.mu.Lock()
	p.wanted = slices.Clone(pods)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // one waits already
	}
}

func (p *PodPublisher) prefix() string { return p.store.registryPrefix() + podsFolder + p.node + "/" }

// Run implements store.PodPublisher. Whatever may have disturbed the records only wakes one idempotent step, sync.
func (p *PodPublisher) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.store.ctx, cancel)()
	var failed retry
	failing := false
	var pause time.Duration
	var epoch context.Context
	for p.await(inner, epoch, pause) {
		epoch = p.store.epoch()
		pause = p.store.cfg.PodTTL / 3
		err := p.sync(inner)
		switch {
		case inner.Err() != nil:
		case err != nil:
			pause = failed.next()
			if !failing {
				p.store.log.Warn("the node's pods cannot be published; trying on", "err", err)
			}
		default:
			failed.reset()
			if failing {
				p.store.log.Info("the node's pods are published again")
			}
		}
		failing = err != nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("publish pods: %w", errClosed)
}

// await returns when pods were published, the pause is over or the epoch ended; false when ctx has ended. The first call waits for pods.
func (p *PodPublisher) await(ctx, epoch context.Context, pause time.Duration) bool {
	var over <-chan time.Time
	var ended <-chan struct{}
	if epoch != nil {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		over, ended = timer.C, epoch.Done()
	}
	select {
	case <-ctx.Done():
		return false
	case <-p.wake:
	case <-over:
	case <-ended:
	}
	return ctx.Err() == nil
}

// sync makes etcd hold the wanted records under a living lease. Records that are right are left alone, also those of an earlier run.
func (p *PodPublisher) sync(ctx context.Context) error {
	p.mu.Lock()
	wanted := p.wanted
	p.mu.Unlock()
	stored := map[string]*mvccpb.KeyValue{}
	if _, err := p.store.scan(ctx, p.prefix(), func(name string, kv *mvccpb.KeyValue) { stored[name] = kv }); err != nil {
		return err
	}
	if p.id == clientv3.NoLease { // the first time: go on with the lease of an earlier run
		for _, kv := range stored {
			p.id = clientv3.LeaseID(kv.Lease)
		}
	}
	if len(wanted)+len(stored) == 0 {
		return nil
	}
	id, err := p.store.keepLease(ctx, p.id, int64(p.store.cfg.PodTTL.Seconds()))
	if p.id = id; err != nil {
		return err
	}
	var errs []error
	var ops []clientv3.Op
	for _, pod := range wanted {
		name := pod.Name.String()
		value, err := pod.Value()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		kv := stored[name]
		delete(stored, name)
		if kv == nil || clientv3.LeaseID(kv.Lease) != p.id || !bytes.Equal(kv.Value, value) {
			ops = append(ops, clientv3.OpPut(p.prefix()+name, string(value), clientv3.WithLease(p.id)))
		}
	}
	for name := range stored {
		ops = append(ops, clientv3.OpDelete(p.prefix()+name))
	}
	for batch := range slices.Chunk(ops, podBatch) {
		if _, err := p.store.transact(ctx, nil, batch); err != nil {
			return errors.Join(append(errs, fmt.Errorf("write below %s: %w", p.prefix(), err))...)
		}
	}
	return errors.Join(errs...)
}

// keepLease extends an etcd lease, or has a new one granted when there is none or it is gone or has another TTL. It returns the one that is in use
// then.
func (s *Store) keepLease(ctx context.Context, id clientv3.LeaseID, ttl int64) (clientv3.LeaseID, error) {
	if id != clientv3.NoLease {
		var kept *clientv3.LeaseKeepAliveResponse
		err := s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (_ int64, err error) {
			kept, err = cli.KeepAliveOnce(ctx, id)
			return 0, err
		})
		switch {
		case err == nil && kept.TTL == ttl:
			return id, nil
		case err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound):
			return id, fmt.Errorf("renew etcd lease %x: %w", id, err)
		}
	}
	id = clientv3.NoLease
	err := s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (int64, error) {
		granted, err := cli.Grant(ctx, ttl)
		if err == nil {
			id = granted.ID
		}
		return 0, err
	})
	if err != nil {
		return id, fmt.Errorf("get an etcd lease of %d s: %w", ttl, err)
	}
	return id, nil
}
