package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twill-cni/twill/store"
)

// The store in memory keeps the contract where tests lean on it; a test that disturbs it sees what a real one would show.
func TestStore(t *testing.T) {
	st := NewStore(ConfigDual)
	network, err := st.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	snapshots := make(chan store.Snapshot, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- st.Watch(ctx, func(s store.Snapshot) { snapshots <- s }) }()
	next := func(leases int) store.Snapshot {
		t.Helper()
		for deadline := time.After(soon); ; {
			select {
			case s := <-snapshots:
				if len(s.Leases) == leases {
					return s
				}
			case <-deadline:
				t.Fatalf("no snapshot with %d leases came", leases)
			}
		}
	}
	next(0)

	r, err := st.Register(t.Context(), network, node(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	next(1)
	peer := store.NewLease(subnets("10.244.0.0-24&fd00:10:244::-64"), node(2))
	st.SetPeers(peer)
	if s := next(2); store.Find(s.Leases, peer.Subnets()) != peer || store.Find(s.Leases, r.Lease().Subnets()) != r.Lease() {
		t.Error("the snapshot does not have the peer and the node")
	}

	away := errors.New("away")
	st.Fail(away)
	if _, err := st.Network(t.Context()); !errors.Is(err, away) || !errors.Is(st.Health(), away) {
		t.Errorf("a failing store says %v and %v", err, st.Health())
	}
	if _, err := st.Register(t.Context(), network, node(3), nil); !errors.Is(err, away) {
		t.Errorf("a failing store registers a node: %v", err)
	}
	st.SetPeers()
	st.Fail(nil)
	next(1)

	st.Lose()
	if !errors.Is(r.Err(), store.ErrLost) {
		t.Errorf("have %v, want ErrLost", r.Err())
	}
	st.Restore()
	r.Update(node(4))
	if r.Err() != nil || r.Lease().PublicIP != node(4).PublicIP {
		t.Errorf("have %v, %v", r.Lease(), r.Err())
	}
	subnet := r.Lease().Subnets()
	again, err := st.Register(t.Context(), network, node(4), nil)
	if err != nil || again.Lease().Subnets() != subnet {
		t.Errorf("a restarted node got %v, %v, want %s", again, err, subnet)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := NewStore("").Network(t.Context()); !errors.Is(err, store.ErrNoNetwork) {
		t.Errorf("have %v, want ErrNoNetwork", err)
	}
}
