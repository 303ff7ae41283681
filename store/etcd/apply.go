package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// Outcome says what Apply did.
type Outcome string

// The outcomes.
const (
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Unchanged  Outcome = "unchanged"
)

// blindDraws is how often free addresses and ports are drawn without a look at what is taken: in a range that is mostly free that
// nearly always succeeds, however many Services there are.
const blindDraws = 2

// Apply makes etcd hold what the document says, whole or not at all. A Service is given the addresses and ports that it lacks, in the same
// transaction: however many write at the same time, each address and each node port has one Service, and a writer that dies leaves nothing
// behind. What a Service was given before stays its own. It returns the Service as it is stored, nil for other kinds. The error wraps
// ErrExhausted when a range is full.
func (s *Store) Apply(ctx context.Context, d manifest.Document) (Outcome, *corev1.Service, error) {
	var outcome Outcome
	var svc *corev1.Service
	var err error
	switch {
	case d.Service != nil:
		outcome, svc, err = s.applyService(ctx, d.Service)
	case folders[d.Kind] != "":
		outcome, err = s.applyObject(ctx, d)
	default:
		outcome, err = s.applySlices(ctx, d)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", manifest.Title(d.Kind, d.Name), err)
	}
	return outcome, svc, nil
}

// race repeats attempt while it loses against other writers.
func race(ctx context.Context, attempt func(try int) error) error {
	for try := 0; ; try++ {
		err := attempt(try)
		if !errors.Is(err, errRaced) {
			return err
		}
		if !sleep(ctx, rand.N(min(time.Millisecond<<min(try, 10), 200*time.Millisecond))) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (s *Store) applyService(ctx context.Context, desired *corev1.Service) (outcome Outcome, svc *corev1.Service, err error) {
	err = race(ctx, func(try int) error {
		svc = desired.DeepCopy()
		outcome, err = s.tryService(ctx, svc, try >= blindDraws)
		return err
	})
	return outcome, svc, err
}

// tryService completes svc and stores it. The error wraps errRaced when another writer was faster.
func (s *Store) tryService(ctx context.Context, svc *corev1.Service, full bool) (Outcome, error) {
	key := s.serviceKey(nameOf(svc))
	kv, _, err := s.get(ctx, key)
	if err != nil {
		return "", err
	}
	config, configRevision, err := s.serviceConfig(ctx)
	if err != nil {
		return "", err
	}
	var old *corev1.Service
	var revision int64
	if kv != nil {
		revision = kv.ModRevision
		if old, err = manifest.DecodeService(nameOf(svc), kv.Value); err != nil {
			return "", fmt.Errorf("what is stored cannot be read, delete it first: %w", err)
		}
	}
	had := claimsOf(old)
	given, err := s.complete(ctx, svc, old, completion{config, full})
	if err != nil {
		return "", err
	}
	if old == nil {
		svc.CreationTimestamp = metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	}
	value, err := manifest.Encode(svc)
	if err != nil {
		return "", err
	}
	if kv != nil && bytes.Equal(value, kv.Value) {
		return Unchanged, nil
	}
	has := claimsOf(svc)
	guards := []clientv3.Cmp{unchanged(key, revision), unchanged(s.registryPrefix()+registryConfig, configRevision)}
	ops := []clientv3.Op{clientv3.OpPut(key, string(value))}
	var fresh []string
	for claim := range has {
		if _, kept := had[claim]; !kept {
			at := s.allocationPrefix() + claim
			fresh = append(fresh, at)
			guards = append(guards, unchanged(at, 0))
			ops = append(ops, clientv3.OpPut(at, nameOf(svc).String()))
		}
	}
	for claim := range had {
		if _, kept := has[claim]; !kept {
			ops = append(ops, free(s.allocationPrefix()+claim, nameOf(svc)))
		}
	}
	holders, err := s.exchange(ctx, guards, ops, fresh)
	if conflict := s.conflict(given, holders); conflict != nil {
		err = conflict
	}
	switch {
	case err != nil:
		return "", err
	case old == nil:
		return Created, nil
	}
	return Configured, nil
}

// free deletes a claim if it is the Service's: an object that was not written by Apply may say that it has what is another's.
func free(key string, name store.ObjectName) clientv3.Op {
	own := clientv3.Compare(clientv3.Value(key), "=", name.String())
	return clientv3.OpTxn([]clientv3.Cmp{own}, []clientv3.Op{clientv3.OpDelete(key)}, nil)
}

// errTaken says that what the manifest asks for is another Service's.
type errTaken struct{ field, what, holder string }

func (e errTaken) Error() string {
	return fmt.Sprintf("%s: %s is already that of service %s: choose another, or leave it out to have one allocated", e.field, e.what, e.holder)
}

// completion is what complete works with.
type completion struct {
	config store.ServiceConfig
	full   bool // look at what is taken before drawing
}

// complete gives svc what it lacks. It returns what the manifest itself asks for and old did not have: claim to field.
func (s *Store) complete(ctx context.Context, svc, old *corev1.Service, c completion) (map[string]string, error) {
	var families []corev1.IPFamily
	networks := map[corev1.IPFamily]netip.Prefix{}
	for _, p := range c.config.Networks {
		family := corev1.IPv4Protocol
		if p.Addr().Is6() {
			family = corev1.IPv6Protocol
		}
		families = append(families, family)
		networks[family] = p
	}
	wanted, errs := manifest.Complete(svc, old, families)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	given, own := claimsOf(svc), map[string]bool{}
	for claim := range given {
		own[claim] = true
	}
	for claim := range claimsOf(old) {
		delete(given, claim)
	}
	if err := inRange(given, c.config); err != nil {
		return nil, err
	}
	a := &allocation{store: s, own: own, full: c.full, taken: map[string]map[uint64]bool{}}
	var addrs []netip.Addr
	for _, family := range wanted.ClusterIPs {
		key, err := a.draw(ctx, addressPool(networks[family]))
		if err != nil {
			return nil, fmt.Errorf("spec.clusterIPs: %w", err)
		}
		addr, err := netip.ParseAddr(strings.TrimPrefix(key, clusterIPsFolder))
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	n := len(wanted.NodePorts)
	if wanted.HealthCheckPort {
		n++
	}
	var ports []uint16
	for range n {
		key, err := a.draw(ctx, portPool(c.config.NodePorts))
		if err != nil {
			return nil, fmt.Errorf("node ports: %w", err)
		}
		port, err := strconv.ParseUint(strings.TrimPrefix(key, nodePortsFolder), 10, 16)
		if err != nil {
			return nil, err
		}
		ports = append(ports, uint16(port))
	}
	wanted.Give(svc, addrs, ports)
	return given, nil
}

// inRange refuses claims that are outside of the ranges.
func inRange(given map[string]string, c store.ServiceConfig) error {
	for _, claim := range slices.Sorted(maps.Keys(given)) {
		if text, ok := strings.CutPrefix(claim, clusterIPsFolder); ok {
			inside := slices.ContainsFunc(c.Networks, func(network netip.Prefix) bool {
				p := addressPool(network)
				n, ok := p.number(text)
				return ok && n < p.size
			})
			if !inside {
				return fmt.Errorf("%s: %s is no address of the Service networks %v", given[claim], text, c.Networks)
			}
			continue
		}
		port, err := strconv.ParseUint(strings.TrimPrefix(claim, nodePortsFolder), 10, 16)
		if err != nil || !c.NodePorts.Contains(uint16(port)) {
			return fmt.Errorf("%s: %d is not in the node port range %s", given[claim], port, c.NodePorts)
		}
	}
	return nil
}

// conflict returns an error when a holder has what the manifest itself asks for. What was drawn is drawn again.
func (s *Store) conflict(given, holders map[string]string) error {
	for _, claim := range slices.Sorted(maps.Keys(given)) {
		if holder, taken := holders[s.allocationPrefix()+claim]; taken {
			_, what, _ := strings.Cut(claim, "/")
			return errTaken{given[claim], what, holder}
		}
	}
	return nil
}

// applySlices stores the slices of a document in one transaction, and removes those that an Endpoints object of that name had before and has not now.
func (s *Store) applySlices(ctx context.Context, d manifest.Document) (outcome Outcome, err error) {
	err = race(ctx, func(int) error {
		outcome, err = s.trySlices(ctx, d)
		return err
	})
	return outcome, err
}

func (s *Store) trySlices(ctx context.Context, d manifest.Document) (Outcome, error) {
	stored, err := s.slicesOf(ctx, d.Kind, d.Name)
	if err != nil {
		return "", err
	}
	var guards []clientv3.Cmp
	var ops []clientv3.Op
	existed := len(stored) > 0
	for _, desired := range d.Slices {
		slice, key := desired.DeepCopy(), s.sliceKey(nameOf(desired))
		slice.CreationTimestamp = metav1.NewTime(time.Now().UTC().Truncate(time.Second))
		var revision int64
		kv := stored[key]
		if kv != nil {
			revision = kv.ModRevision
			if old, err := manifest.DecodeEndpointSlice(nameOf(slice), kv.Value); err == nil {
				slice.CreationTimestamp = old.CreationTimestamp
			}
			delete(stored, key)
		}
		value, err := manifest.Encode(slice)
		if err != nil {
			return "", err
		}
		if kv == nil || !bytes.Equal(value, kv.Value) {
			guards, ops = append(guards, unchanged(key, revision)), append(ops, clientv3.OpPut(key, string(value)))
		}
	}
	for key, kv := range stored {
		guards, ops = append(guards, unchanged(key, kv.ModRevision)), append(ops, clientv3.OpDelete(key))
	}
	if len(ops) == 0 {
		return Unchanged, nil
	}
	if _, err := s.exchange(ctx, guards, ops, nil); err != nil {
		return "", err
	}
	if existed {
		return Configured, nil
	}
	return Created, nil
}

// slicesOf returns what is stored of a document of that kind and name: the slice, or the slices of an Endpoints object. By key.
func (s *Store) slicesOf(ctx context.Context, kind string, name store.ObjectName) (map[string]*mvccpb.KeyValue, error) {
	stored := map[string]*mvccpb.KeyValue{}
	if kind != manifest.KindEndpoints {
		kv, _, err := s.get(ctx, s.sliceKey(name))
		if kv != nil {
			stored[s.sliceKey(name)] = kv
		}
		return stored, err
	}
	prefix := s.sliceKey(name) + "-"
	_, err := s.scan(ctx, prefix, func(rest string, kv *mvccpb.KeyValue) {
		slice, err := manifest.DecodeEndpointSlice(store.ObjectName{Namespace: name.Namespace, Name: name.Name + "-" + rest}, kv.Value)
		if err == nil && slice.Labels[manifest.EndpointsLabel] == name.Name {
			stored[prefix+rest] = kv
		}
	})
	return stored, err
}

// Delete removes an object, and frees what it was given. kind is one of package manifest's. With a Namespace go its labels alone, and nothing that
// is in it. The error wraps ErrNotFound when there is none.
func (s *Store) Delete(ctx context.Context, kind string, name store.ObjectName) error {
	err := race(ctx, func(int) error { return s.tryDelete(ctx, kind, name) })
	if err != nil {
		return fmt.Errorf("%s: %w", manifest.Title(kind, name), err)
	}
	return nil
}

func (s *Store) tryDelete(ctx context.Context, kind string, name store.ObjectName) error {
	guards, ops, err := s.deletion(ctx, kind, name)
	if err != nil {
		return err
	}
	if len(ops) == 0 {
		return ErrNotFound
	}
	_, err = s.exchange(ctx, guards, ops, nil)
	return err
}

// deletion returns what deletes an object as it is now; nothing when there is none.
func (s *Store) deletion(ctx context.Context, kind string, name store.ObjectName) (guards []clientv3.Cmp, ops []clientv3.Op, err error) {
	take := func(key string, kv *mvccpb.KeyValue) {
		guards, ops = append(guards, unchanged(key, kv.ModRevision)), append(ops, clientv3.OpDelete(key))
	}
	if kind != manifest.KindService && folders[kind] == "" {
		stored, err := s.slicesOf(ctx, kind, name)
		for key, kv := range stored {
			take(key, kv)
		}
		return guards, ops, err
	}
	key := s.serviceKey(name)
	if kind != manifest.KindService {
		key = s.objectKey(kind, name)
	}
	kv, _, err := s.get(ctx, key)
	if err != nil || kv == nil {
		return nil, nil, err
	}
	take(key, kv)
	if kind != manifest.KindService {
		return guards, ops, nil
	}
	claims, err := s.claimsToFree(ctx, name, kv.Value)
	for _, claim := range claims {
		ops = append(ops, free(claim, name))
	}
	return guards, ops, err
}

// claimsToFree returns the keys of what the Service has. They are in the Service itself; of one that somebody made unreadable they are looked for.
func (s *Store) claimsToFree(ctx context.Context, name store.ObjectName, value []byte) ([]string, error) {
	var keys []string
	if svc, err := manifest.DecodeService(name, value); err == nil {
		for claim := range claimsOf(svc) {
			keys = append(keys, s.allocationPrefix()+claim)
		}
		return keys, nil
	}
	_, err := s.scan(ctx, s.allocationPrefix(), func(rest string, kv *mvccpb.KeyValue) {
		if string(kv.Value) == name.String() {
			keys = append(keys, s.allocationPrefix()+rest)
		}
	})
	return keys, err
}
