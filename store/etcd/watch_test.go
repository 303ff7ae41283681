package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/twill-cni/twill/store"
)

// world is an etcd whose watches and listings of leases a test can look into. It knows what etcd held after each of its changes.
type world struct {
	*harness

	mu      sync.Mutex
	listing func(page int)          // called before etcd answers with a page; nil for nothing to call
	sent    int64                   // the highest revision of an event that a watch was sent
	states  []map[string]netip.Addr // by record name
	at      int                     // index of what the last snapshot was
}

// newWorld returns one that holds two pages of records.
func newWorld(t *testing.T) *world {
	w := &world{}
	w.harness = newHarness(t, func(h *harness) {
		h.prepare = func(c *embed.Config) {
			c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(w.unary), grpc.ChainStreamInterceptor(w.stream)}
		}
	})
	w.put("registry/history", "the same all along") // or the store puts one, at a revision that is no lease's: see told
	const n = pageSize + 100
	w.fill(n)
	w.states = []map[string]netip.Addr{{}}
	for i := range n {
		w.states[0][fmt.Sprintf("10.%d.%d.0-24", i>>8, i&255)] = attrs(i + 1).PublicIP
	}
	return w
}

func (w *world) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	r, ok := req.(*pb.RangeRequest)
	if !ok || r.Limit != pageSize {
		return handle(ctx, req)
	}
	page := 0
	if string(r.Key) != DefaultPrefix+"/subnets/" {
		page = 1
	}
	w.mu.Lock()
	hook := w.listing
	w.mu.Unlock()
	if hook != nil {
		hook(page)
	}
	return handle(ctx, req)
}

func (w *world) stream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(srv, &watchStream{s, w})
}

// watchStream notes what is sent.
type watchStream struct {
	grpc.ServerStream
	world *world
}

func (s *watchStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if resp, ok := m.(*pb.WatchResponse); ok {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		for _, event := range resp.Events {
			s.world.sent = max(s.world.sent, event.Kv.ModRevision)
		}
	}
	return err
}

// on calls hook, once, before etcd answers the given page of a listing.
func (w *world) on(page int, hook func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listing = func(p int) {
		if p != page {
			return
		}
		w.mu.Lock()
		w.listing = nil
		w.mu.Unlock()
		hook()
	}
}

// set makes the record with that name be that of node n, or be gone when n is 0.
func (w *world) set(name string, n int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	state := maps.Clone(w.states[len(w.states)-1])
	if n == 0 {
		w.Delete(name)
		delete(state, name)
	} else {
		w.Put(name, value(w.t, name, n))
		state[name] = attrs(n).PublicIP
	}
	w.states = append(w.states, state)
}

// told waits until a watch was sent all that has happened: it stood before.
func (w *world) told() {
	w.t.Helper()
	resp, err := w.client.Get(w.ctx(), "x")
	w.must(err)
	w.eventually("the watch, which should stand, is told what happens", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.sent == resp.Header.Revision
	})
}

// follows takes snapshots until one is what etcd holds in the end. Each has to be what etcd held at some time, and none what it held
// before the one before.
func (w *world) follows(snapshots <-chan store.Snapshot) {
	w.t.Helper()
	w.mu.Lock()
	states := w.states
	w.mu.Unlock()
	for deadline := time.After(5 * time.Second); ; {
		select {
		case snap := <-snapshots:
			have := map[string]netip.Addr{}
			for _, l := range snap.Leases {
				have[l.Key()] = l.PublicIP
			}
			w.mu.Lock()
			states = w.states
			w.mu.Unlock()
			for ; w.at < len(states) && !maps.Equal(states[w.at], have); w.at++ {
			}
			if w.at == len(states) {
				w.t.Fatalf("a snapshot with %d leases is none of what etcd held since the one before", len(have))
			}
			if w.at == len(states)-1 || maps.Equal(have, states[len(states)-1]) {
				return
			}
		case <-deadline:
			w.t.Fatalf("the watch stands still at state %d of %d", w.at, len(states)-1)
		}
	}
}

const (
	early = "10.0.0.0-24" // is on the first page
	late  = "10.4.0.0-24" // is on the second one
	other = "10.9.0.0-24" // is not there at first
)

// What happens between the opening of the watch and the end of the listing is neither lost nor applied backwards.
func TestEventsWhileListing(t *testing.T) {
	tests := []struct {
		name    string
		happens func(w *world)
	}{
		{"nothing more", func(*world) {}},
		{"changed", func(w *world) { w.set(early, 5001); w.set(late, 5002) }},
		{"deleted", func(w *world) { w.set(early, 0); w.set(late, 0) }},
		{"new and deleted", func(w *world) { w.set(other, 5001); w.set(other, 0) }},
		{"moved", func(w *world) { w.set(early, 0); w.set(other, 1) }},
		{"put, deleted, put", func(w *world) {
			for _, name := range []string{early, late, other} {
				w.set(name, 5001)
				w.set(name, 0)
				w.set(name, 5002)
			}
		}},
	}
	for _, test := range tests {
		for page, when := range []string{"first", "second"} {
			t.Run(test.name+" before the "+when+" page", func(t *testing.T) {
				w := newWorld(t)
				w.on(page, func() {
					w.set("10.8.0.0-24", 6000) // this at least
					test.happens(w)
					w.told()
				})
				snapshots := follow(t, w.open())
				w.follows(snapshots)
				w.set(early, 7001) // and it goes on
				w.set(other, 7002)
				w.follows(snapshots)
			})
		}
	}
}

// Events that a listing knows already say nothing new, however late they come.
func TestKnownEventsAreSkipped(t *testing.T) {
	h := newHarness(t, nil)
	event := func(name string, n int, revision int64) []clientv3.WatchResponse {
		kv := &mvccpb.KeyValue{Key: []byte(DefaultPrefix + "/subnets/" + name), ModRevision: revision}
		kind := clientv3.EventTypeDelete
		if n != 0 {
			kv.Value, kind = []byte(value(t, name, n)), clientv3.EventTypePut
		}
		return []clientv3.WatchResponse{{Header: &pb.ResponseHeader{Revision: 12}, Events: []*clientv3.Event{{Type: kind, Kv: kv}}}}
	}
	listed, err := read(early, []byte(value(t, early, 2)))
	h.must(err)
	var have [][]*store.Lease
	w := &watch{store: h.open(), rejected: map[string]error{}, leases: []*store.Lease{listed}, emit: func(s store.Snapshot) { have = append(have, s.Leases) }}
	w.feed = feed{store: w.store, prefix: w.store.leasePrefix(), to: w, loaded: 10, revision: 10, epoch: t.Context()}
	w.publish()
	batches := make(chan []clientv3.WatchResponse)
	go func() {
		defer close(batches)
		batches <- event(early, 1, 7) // each by itself
		batches <- event(late, 3, 8)
		batches <- event(late, 0, 9)
		batches <- event(early, 0, 9)
		batches <- event(early, 2, 10)
		batches <- event(other, 4, 11)
	}()
	_, _ = w.feed.follow(batches)
	if len(have) != 2 || len(have[1]) != 2 || have[1][0] != listed || have[1][1].Key() != other || w.feed.revision != 11 {
		t.Errorf("snapshots %v up to revision %d, want one with %s and one with %s too, up to 11", have, w.feed.revision, early, other)
	}
}

// A listing that is disturbed begins anew, and so does its watch.
func TestDisturbedWhileListing(t *testing.T) {
	tests := []struct {
		name    string
		disturb func(w *world, s *Store)
	}{
		{"compacted", func(w *world, _ *Store) { w.Compact() }},
		{"disconnected", func(w *world, _ *Store) { w.cut(); w.set(late, 5002); w.mend() }},
		{"history changed", func(_ *world, s *Store) { s.health.probed(1<<40, reading{revision: 1}, nil) }},
		{"client replaced", func(_ *world, s *Store) { _ = s.disconnect() }},
	}
	for _, test := range tests {
		for page, when := range []string{"first", "second"} {
			t.Run(test.name+" before the "+when+" page", func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				w.on(page, func() {
					w.set(early, 0)
					w.set(other, 5001)
					test.disturb(w, s)
				})
				snapshots := follow(t, s)
				w.follows(snapshots)
				w.set(late, 7001)
				w.set(early, 7002)
				w.follows(snapshots)
			})
		}
	}
}

// A watch that waits for an etcd that cannot be reached, or that does not answer, ends when it should.
func TestWatchEndsWhileOpening(t *testing.T) {
	for _, etcd := range []string{"away", "silent"} {
		for _, end := range []string{"context", "store"} {
			t.Run(etcd+", "+end+" ends", func(t *testing.T) {
				h := newHarness(t, nil)
				if etcd == "away" {
					h.cut()
				} else {
					h.proxy.freeze()
				}
				s := h.open()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 2)
				go func() {
					ended <- s.Watch(ctx, func(store.Snapshot) { t.Error("a snapshot came from nowhere") })
				}()
				go func() {
					ended <- s.WatchNode(ctx, "a", func(store.NodeRecord) { t.Error("a record came from nowhere") })
				}()
				<-time.After(300 * time.Millisecond) // so that they wait
				want := errClosed
				if end == "context" {
					want = context.Canceled
					cancel()
				} else {
					h.must(s.Close())
				}
				for range 2 {
					select {
					case err := <-ended:
						if !errors.Is(err, want) {
							t.Errorf("have %v, want %v", err, want)
						}
					case <-time.After(3 * time.Second):
						t.Fatal("a watch does not end")
					}
				}
			})
		}
	}
}

// An etcd that answers reads and refuses watches is not asked at the speed of the network, and the log is not filled.
func TestRefusedWatch(t *testing.T) {
	var mu sync.Mutex
	refused := 0
	refuse := func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if info.FullMethod != pb.Watch_Watch_FullMethodName {
			return handle(srv, s)
		}
		mu.Lock()
		defer mu.Unlock()
		refused++
		return status.Error(codes.PermissionDenied, "no watch today")
	}
	h := newHarness(t, func(h *harness) {
		h.prepare = func(c *embed.Config) {
			c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(refuse)}
		}
	})
	var log lines
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	s := h.open()
	snapshots := follow(t, s)
	<-snapshots // what is there is known all the same
	ended := make(chan struct{})
	record := make(chan store.NodeRecord, 1)
	go func() {
		defer close(ended)
		_ = s.WatchNode(t.Context(), "a", func(r store.NodeRecord) { record <- r })
	}()
	<-record
	<-time.After(3 * time.Second)
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "a watch broke"); refused < 4 || refused > 20 || n > 2 {
		t.Errorf("in 3 s the watches were tried %d times and %d lines were logged:\n%s", refused, n, log.String())
	}
	h.must(s.Close())
	<-ended
}
