package etcd

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

// In a long outage the leases of all nodes expire. The nodes that are alive are in every snapshot, while they claim the same subnets again;
// those that are not are gone in the end.
func TestAllExpiredInLongOutage(t *testing.T) {
	for _, history := range []string{"kept", "compacted"} {
		t.Run(history, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, nil)
			h.config = func(c *Config) { c.LeaseTTL = time.Second }
			h.SetNetwork(storetest.Config4)
			own := h.open()
			snapshots := follow(t, own)
			alive := []store.Registration{h.register(own, 1), h.register(h.open(), 2)}
			lease, err := h.client.Grant(h.ctx(), 1)
			h.must(err)
			const dead = "10.244.0.0-24" // below SubnetMin, so no node draws it
			h.put("subnets/"+dead, value(t, dead, 3), clientv3.WithLease(lease.ID))
			for snap := range snapshots {
				if len(snap.Leases) == 3 {
					break
				}
			}
			h.cut()
			begin := time.Now()
			storetest.Eventually(t, 20*time.Second, "an outage in which all leases expire", func() bool {
				resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/subnets/", clientv3.WithPrefix(), clientv3.WithCountOnly())
				return err == nil && resp.Count == 0 && time.Since(begin) > own.health.long+time.Second
			})
			if history == "compacted" {
				h.put("other", "x")
				h.Compact()
			}
			h.mend()
			begin = time.Now()
			h.eventually("both nodes hold the same subnets again", func() bool {
				return h.record(alive[0].Lease().Key()) != nil && h.record(alive[1].Lease().Key()) != nil
			})
			claimed := time.Since(begin)
			deadline := time.After(10 * time.Second)
			for left := 3; left != 2; {
				select {
				case snap := <-snapshots:
					left = len(snap.Leases)
					for _, r := range alive {
						if store.Find(snap.Leases, r.Lease().Subnets()) == nil {
							t.Fatalf("%s after the outage a snapshot lacks %s, whose node is alive", time.Since(begin), r.Lease().Key())
						}
					}
				case <-deadline:
					t.Fatalf("%s, whose node is gone, is held for ever", dead)
				}
			}
			t.Logf("claimed again after %s, the dead node's lease is gone after %s", claimed, time.Since(begin))
			for _, r := range alive {
				h.eventually("no error is left", func() bool { return r.Err() == nil })
			}
		})
	}
}

// A short outage cannot have cost a node its lease: what was deleted in it is gone at once.
func TestDeletedInShortOutage(t *testing.T) {
	h := newHarness(t, nil)
	h.config = func(c *Config) { c.Holdover = time.Hour }
	const left = "10.244.0.0-24"
	h.Put(left, value(t, left, 1))
	s := h.open()
	snapshots := follow(t, s)
	<-snapshots
	h.eventually("health", func() bool { return s.Health() == nil })
	h.cut()
	h.Delete(left)
	h.eventually("bad health", func() bool { return s.Health() != nil })
	h.mend()
	if snap := <-snapshots; len(snap.Leases) != 0 {
		t.Errorf("have %v", snap.Leases)
	}
}

// A deletion by hand, long after a long outage, is one.
func TestDeletedAfterLongOutage(t *testing.T) {
	h := newHarness(t, nil)
	h.config = func(c *Config) { c.Holdover = time.Second }
	const left = "10.244.0.0-24"
	h.Put(left, value(t, left, 1))
	s := h.open()
	snapshots := follow(t, s)
	<-snapshots
	s.health.mu.Lock()
	s.health.longOver = time.Now()
	s.health.mu.Unlock()
	h.Delete(left)
	select {
	case <-snapshots:
		if since := s.health.sinceLongOutage(); since < time.Second {
			t.Errorf("gone %s after a long outage", since)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it is held for ever")
	}
	h.Put(left, value(t, left, 2))
	<-snapshots
	begin := time.Now()
	h.Delete(left)
	if <-snapshots; time.Since(begin) > time.Second {
		t.Errorf("gone after %s, long after the outage", time.Since(begin))
	}
}
