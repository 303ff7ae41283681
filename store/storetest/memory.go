package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	"github.com/twill-cni/twill/store"
)

// Store is a datastore in memory. It keeps the contract of store.Store; the methods beyond that disturb it as the world disturbs a real
// one. A Store is shared by all nodes of a test.
type Store struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and made anew at each change
	network  *store.Network
	peers    []*store.Lease // sorted
	rejected []store.Reject
	records  map[string]store.NodeRecord // by node name
	revision int64
	failure  error
	gone     []netip.Addr // of all calls of Redial
	nodes    []*registration
}

// NewStore returns a Store that holds the network configuration in config, flannel's JSON; none when it is empty. It panics when the
// configuration is wrong.
func NewStore(config string) *Store {
	s := &Store{changed: make(chan struct{}), revision: 1, records: map[string]store.NodeRecord{}}
	if config != "" {
		network, err := store.ParseNetwork([]byte(config))
		if err != nil {
			panic(err)
		}
		s.network = &network
	}
	return s
}

var _ store.Store = (*Store)(nil)

// change applies f and wakes all watches and registrations.
func (s *Store) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

// SetNetwork replaces the network configuration; nil removes it.
func (s *Store) SetNetwork(n *store.Network) { s.change(func() { s.network = n }) }

// SetPeers makes the store hold exactly these leases and those of the nodes that are registered, unless one of these has their subnets.
func (s *Store) SetPeers(leases ...*store.Lease) {
	s.change(func() {
		next := slices.Clone(leases)
		for _, r := range s.nodes {
			taken := slices.ContainsFunc(leases, func(l *store.Lease) bool { return l.Subnets() == r.subnets })
			if r.err == nil && !taken {
				next = append(next, r.lease)
			}
		}
		s.peers = store.Replace(s.peers, next)
	})
}

// SetRejected replaces the records that a snapshot reports as unreadable.
func (s *Store) SetRejected(rejected ...store.Reject) { s.change(func() { s.rejected = rejected }) }

// SetNode replaces what the operator says of the node that the record names; a record that says nothing is as good as none.
func (s *Store) SetNode(record store.NodeRecord) {
	s.change(func() { s.records[record.Name] = record })
}

// Fail makes the store unreachable: methods and Health return err, watches stand still. Fail(nil) ends that.
func (s *Store) Fail(err error) { s.change(func() { s.failure = err }) }

// Lose makes another node hold the subnets of all registrations: their Err is store.ErrLost.
func (s *Store) Lose() {
	s.change(func() {
		for _, r := range s.nodes {
			if r.err = store.ErrLost; !r.isLost {
				r.isLost = true
				close(r.lost)
			}
		}
	})
}

// Restore gives all registrations their subnets back.
func (s *Store) Restore() {
	s.change(func() {
		for _, r := range s.nodes {
			r.err = nil
			r.publish()
		}
	})
}

// Snapshot returns what a watch would emit now.
func (s *Store) Snapshot() store.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Snapshot{Leases: s.peers, Revision: s.revision, Rejected: s.rejected}
}

// Network implements store.Store.
func (s *Store) Network(context.Context) (store.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failure != nil:
		return store.Network{}, s.failure
	case s.network == nil:
		return store.Network{}, fmt.Errorf("read the network config: %w", store.ErrNoNetwork)
	}
	return *s.network, nil
}

// Register implements store.Store.
func (s *Store) Register(_ context.Context, network store.Network, attrs store.Attributes, preferred []store.Subnets) (store.Registration, error) {
	r := &registration{store: s, attrs: attrs, lost: make(chan struct{})}
	var err error
	s.change(func() {
		if err = s.failure; err != nil {
			return
		}
		s.nodes = slices.DeleteFunc(s.nodes, func(o *registration) bool { return o.lease.SameNode(attrs) })
		var taken, wanted []store.Subnets
		for _, l := range s.peers {
			if l.SameNode(attrs) {
				wanted = append(wanted, l.Subnets())
			} else {
				taken = append(taken, l.Subnets())
			}
		}
		if r.subnets, err = network.Choose(taken, append(wanted, preferred...), rand.Uint64N); err != nil {
			return
		}
		for _, old := range wanted {
			s.peers = store.Merge(s.peers, []store.Change{{Subnets: old}})
		}
		s.nodes = append(s.nodes, r)
		r.publish()
	})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	return r, nil
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, emit func(store.Snapshot)) error {
	var last store.Snapshot
	for {
		s.mu.Lock()
		snap, failed, changed := store.Snapshot{Leases: s.peers, Revision: s.revision, Rejected: s.rejected}, s.failure != nil, s.changed
		s.mu.Unlock()
		if !failed && (last.Revision == 0 || !slices.Equal(last.Leases, snap.Leases) || !slices.Equal(last.Rejected, snap.Rejected)) {
			emit(snap)
			last = snap
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WatchNode implements store.Store.
func (s *Store) WatchNode(ctx context.Context, name string, emit func(store.NodeRecord)) error {
	if err := store.CheckNodeName(name); err != nil {
		return fmt.Errorf("watch the node record: %w", err)
	}
	var last store.NodeRecord
	for {
		s.mu.Lock()
		record, found := s.records[name]
		failed, changed := s.failure != nil, s.changed
		s.mu.Unlock()
		if !found {
			record = store.NodeRecord{Name: name}
		}
		if !failed && !record.Equal(last) {
			emit(record)
			last = record
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Redial implements store.Store.
func (s *Store) Redial(gone []netip.Addr) {
	s.change(func() { s.gone = append(s.gone, gone...) })
}

// Redialed returns the addresses that were given to Redial until now.
func (s *Store) Redialed() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

// Health implements store.Store.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Close implements store.Store.
func (s *Store) Close() error { return nil }

// registration is guarded by its store's lock.
type registration struct {
	store   *Store
	subnets store.Subnets
	attrs   store.Attributes
	lease   *store.Lease
	err     error
	lost    chan struct{}
	isLost  bool // lost is closed
}

func (r *registration) publish() {
	r.lease = store.NewLease(r.subnets, r.attrs)
	r.store.peers = store.Merge(r.store.peers, []store.Change{{Subnets: r.subnets, Lease: r.lease}})
}

func (r *registration) Lease() *store.Lease {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	return r.lease
}

func (r *registration) Update(attrs store.Attributes) {
	r.store.change(func() {
		r.attrs = attrs
		if r.err == nil {
			r.publish()
		}
	})
}

func (r *registration) Err() error {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if r.err == nil {
		return r.store.failure
	}
	return r.err
}

func (r *registration) Lost() <-chan struct{} { return r.lost }

func (r *registration) Close() error {
	r.store.change(func() {
		r.store.nodes = slices.DeleteFunc(r.store.nodes, func(o *registration) bool { return o == r })
	})
	return nil
}
