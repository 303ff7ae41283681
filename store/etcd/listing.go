package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
)

const (
	mostExpiries   = 2000 // leases that are asked for their time: each is a request of its own
	expiriesAtOnce = 16
	mostNamed      = 20_000 // nodes whose pods are looked at
)

var _ store.NodeLister = (*Store)(nil)

// ListNodes implements store.NodeLister. A lease does not bear its node's name, unless the node routes with BGP; that of another one follows from the
// pods that it has published.
func (s *Store) ListNodes(ctx context.Context, what store.NodeDetail) ([]store.NodeEntry, error) {
	var all []store.NodeEntry
	var ids []clientv3.LeaseID
	_, err := s.scan(ctx, s.leasePrefix(), func(name string, kv *mvccpb.KeyValue) {
		e := store.NodeEntry{}
		if e.Subnets, e.Err = store.ParseKey(name); e.Err == nil {
			e.Lease, e.Err = store.DecodeLease(e.Subnets, kv.Value)
		}
		if e.Lease != nil {
			e.Name = nameIn(e.Lease.BackendData, e.Lease.BackendV6Data)
		}
		all, ids = append(all, e), append(ids, clientv3.LeaseID(kv.Lease))
	})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	if what == store.WithExpiries {
		if err := s.expiries(ctx, ids, all); err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
	}
	if err := s.nameByPods(ctx, all); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	if err := s.label(ctx, all); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	slices.SortStableFunc(all, func(a, b store.NodeEntry) int {
		return cmp.Or(a.Subnets.Compare(b.Subnets), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

// nameIn returns the name that a node which routes with BGP publishes of itself (bgp.LeaseData).
func nameIn(documents ...json.RawMessage) string {
	for _, data := range documents {
		var said struct{ Node string }
		if json.Unmarshal(data, &said) == nil && said.Node != "" && store.CheckNodeName(said.Node) == nil {
			return said.Node
		}
	}
	return ""
}

// expiries asks for how long the leases will last, many at a time. Those of a very large cluster are not all asked for.
func (s *Store) expiries(ctx context.Context, ids []clientv3.LeaseID, entries []store.NodeEntry) error {
	var asking sync.WaitGroup
	free, errs := make(chan struct{}, expiriesAtOnce), make([]error, len(ids))
	for i, id := range ids[:min(len(ids), mostExpiries)] {
		if id == clientv3.NoLease {
			continue
		}
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			entries[i].Expires, errs[i] = s.expiry(ctx, id)
		})
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one is enough: etcd is away for all
		}
	}
	return nil
}

func (s *Store) expiry(ctx context.Context, id clientv3.LeaseID) (expires time.Time, err error) {
	err = s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (int64, error) {
		answer, err := cli.TimeToLive(ctx, id)
		if err != nil {
			return 0, err
		}
		if answer.TTL >= 0 { // else it has expired between the two requests
			expires = time.Now().Add(time.Duration(answer.TTL) * time.Second)
		}
		return 0, nil
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the time of etcd lease %x: %w", id, err)
	}
	return expires, nil
}

// nameByPods names nodes after one pod of each: pods are stored below their node's name and have addresses of its subnets.
func (s *Store) nameByPods(ctx context.Context, entries []store.NodeEntry) error {
	prefix := s.registryPrefix() + podsFolder
	var firsts []string // the key of each node's first pod
	last := ""
	revision, err := s.scan(ctx, prefix, func(name string, _ *mvccpb.KeyValue) {
		if node, _, _ := strings.Cut(name, "/"); (node != last || len(firsts) == 0) && len(firsts) < mostNamed {
			firsts, last = append(firsts, prefix+name), node
		}
	}, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	holders := holdersOf(entries)
	for keys := range slices.Chunk(firsts, maxTxn) {
		if err := s.visit(ctx, keys, revision, func(kv *mvccpb.KeyValue) {
			key, err := parsePodKey(strings.TrimPrefix(string(kv.Key), prefix))
			if err != nil {
				return
			}
			if pod, err := store.DecodePod(key, kv.Value); err == nil {
				holders.name(pod)
			}
		}); err != nil {
			return fmt.Errorf("read pods below %s: %w", prefix, err)
		}
	}
	return nil
}

// visit reads up to maxTxn records, as they were at a revision, with one request.
func (s *Store) visit(ctx context.Context, keys []string, revision int64, visit func(kv *mvccpb.KeyValue)) error {
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpGet(key, clientv3.WithRev(revision)))
	}
	return s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (int64, error) {
		answer, err := cli.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return 0, err
		}
		for _, r := range answer.Responses {
			for _, kv := range r.GetResponseRange().GetKvs() {
				visit(kv)
			}
		}
		return answer.Header.Revision, nil
	})
}

// holders are the nodes without a name, by subnet.
type holders struct {
	by   map[netip.Prefix][]*store.NodeEntry
	bits map[int]bool // lengths of the subnets
}

func holdersOf(entries []store.NodeEntry) holders {
	h := holders{map[netip.Prefix][]*store.NodeEntry{}, map[int]bool{}}
	for i := range entries {
		for _, p := range []netip.Prefix{entries[i].Subnets.IPv4, entries[i].Subnets.IPv6} {
			if p.IsValid() && entries[i].Name == "" {
				h.by[p], h.bits[p.Bits()] = append(h.by[p], &entries[i]), true
			}
		}
	}
	return h
}

// name names those who have an address of the pod.
func (h holders) name(pod *store.Pod) {
	for _, a := range pod.Addrs {
		for bits := range h.bits {
			p, err := a.Prefix(bits)
			if err != nil {
				continue // more bits than the family has
			}
			for _, e := range h.by[p] {
				if e.Name == "" {
					e.Name = pod.Node
				}
			}
		}
	}
}

// label gives the nodes whose names are known the labels of their records.
func (s *Store) label(ctx context.Context, entries []store.NodeEntry) error {
	labels := map[string]map[string]string{}
	_, err := s.scan(ctx, s.nodeKey(""), func(name string, kv *mvccpb.KeyValue) {
		if record, err := store.ParseNodeRecord(name, kv.Value); err == nil {
			labels[name] = record.Labels
		}
	})
	for i := range entries {
		entries[i].Labels = labels[entries[i].Name]
	}
	return err
}
