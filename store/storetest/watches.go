package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twill-cni/twill/store"
)

func testPeers(s *suite) {
	s.SetNetwork(Config4)
	o := s.watch(s.Open())
	o.leases()
	for i := 1; i <= 3; i++ {
		key := fmt.Sprintf("10.244.%d.0-24", i)
		s.Put(key, s.value(subnets(key), node(i)))
	}
	first := o.leases("10.244.1.0-24", "10.244.2.0-24", "10.244.3.0-24")

	s.Put("10.244.2.0-24", s.value(subnets("10.244.2.0-24"), node(7)))
	second := o.until("a changed address", func(snap store.Snapshot) bool { return snap.Leases[1].PublicIP == node(7).PublicIP })
	if first.Leases[0] != second.Leases[0] || first.Leases[2] != second.Leases[2] {
		s.Error("leases that did not change have other pointers")
	}
	if first.Leases[1].PublicIP != node(2).PublicIP {
		s.Error("an emitted snapshot was changed")
	}
	s.Put("10.244.2.0-24", s.value(subnets("10.244.2.0-24"), node(7))) // says the same
	s.Delete("10.244.1.0-24")
	third := o.leases("10.244.2.0-24", "10.244.3.0-24")
	if second.Leases[1] != third.Leases[0] || second.Leases[2] != third.Leases[1] {
		s.Error("leases that did not change have other pointers")
	}
	if err := o.watch.Stop(); !errors.Is(err, context.Canceled) {
		s.Errorf("a cancelled watch returned %v", err)
	}
}

func testGarbage(s *suite) {
	s.SetNetwork(Config4)
	s.Put("10.244.1.0-24", s.value(subnets("10.244.1.0-24"), node(1)))
	s.Put("10.244.2.0-24", s.value(subnets("10.244.2.0-24"), node(2)))
	s.Put("10.244.9.0-24", `{"PublicIP":"not an address"}`)
	o := s.watch(s.Open())
	good := o.leases("10.244.1.0-24", "10.244.2.0-24")
	if len(good.Rejected) != 1 || good.Rejected[0].Key != "10.244.9.0-24" || !strings.Contains(strings.ToLower(good.Rejected[0].Err.Error()), "public") {
		s.Errorf("rejected: %v", good.Rejected)
	}

	s.Put("10.244.1.0-24", "{")
	s.Put("nonsense", "{}")
	s.Put("10.244.3.7-24", s.value(subnets("10.244.3.0-24"), node(3)))
	s.Put("10.244.4.0-24", strings.Repeat("x", store.MaxLeaseSize+1))
	bad := o.until("five rejected records", func(snap store.Snapshot) bool { return len(snap.Rejected) == 5 })
	if len(bad.Leases) != 2 || bad.Leases[0] != good.Leases[0] || bad.Leases[1] != good.Leases[1] {
		s.Error("garbage changed the peers: the last good leases have to stay")
	}

	s.Compact()
	s.Put("10.244.1.0-24", s.value(subnets("10.244.1.0-24"), node(5)))
	s.Put("10.244.9.0-24", s.value(subnets("10.244.9.0-24"), node(9)))
	s.Delete("nonsense")
	healed := o.leases("10.244.1.0-24", "10.244.2.0-24", "10.244.9.0-24")
	healed = o.until("two rejected records", func(snap store.Snapshot) bool { return len(snap.Rejected) == 2 })
	if healed.Leases[0].PublicIP != node(5).PublicIP || healed.Leases[1] != good.Leases[1] {
		s.Error("a good value did not heal its peer, or changed another")
	}
	s.Delete("10.244.4.0-24")
	s.Delete("10.244.3.7-24")
	o.until("nothing rejected", func(snap store.Snapshot) bool { return len(snap.Rejected) == 0 })
}

func testDownAtStart(s *suite) {
	s.SetNetwork(Config4)
	s.Put("10.244.1.0-24", s.value(subnets("10.244.1.0-24"), node(1)))
	s.Stop()
	started := time.Now()
	st := s.Open()
	if d := time.Since(started); d > time.Second {
		s.Errorf("opening took %s", d)
	}
	o := s.watch(st)
	if _, err := st.Network(s.Context()); !s.Given() && (err == nil || errors.Is(err, store.ErrNoNetwork)) {
		s.Errorf("Network of a stopped backend: %v", err)
	}
	if st.Health() == nil {
		s.Error("a store that has never heard of its backend is healthy")
	}
	if !o.watch.Still() {
		s.Errorf("a snapshot came from a stopped backend: %v", o.last)
	}
	s.Start()
	o.leases("10.244.1.0-24")
	s.eventually("health", func() bool { return st.Health() == nil })
	s.register(st, node(2))
}

func testOutage(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	r := s.register(st, node(1))
	key := r.Lease().Key()
	o := s.watch(st)
	before := o.leases(key)
	s.eventually("health", func() bool { return st.Health() == nil })
	for range 2 {
		s.Stop()
		s.eventually("bad health", func() bool { return st.Health() != nil })
		if !o.watch.Still() {
			s.Errorf("the outage made a snapshot: %+v", o.last)
		}
		s.Start()
		s.eventually("good health", func() bool { return st.Health() == nil })
	}
	s.Put("10.244.0.0-24", s.value(subnets("10.244.0.0-24"), node(2))) // below SubnetMin, so no node draws it
	after := o.leases(key, "10.244.0.0-24")
	if store.Find(before.Leases, subnets(key)) != store.Find(after.Leases, subnets(key)) {
		s.Error("a lease that did not change has another pointer after an outage")
	}
	s.check(r.Err())
}

func testCompacted(s *suite) {
	s.SetNetwork(Config4)
	o := s.watch(s.Open())
	for i := 1; i <= 20; i++ {
		key := fmt.Sprintf("10.244.%d.0-24", i)
		s.Put(key, s.value(subnets(key), node(i)))
		s.Compact()
	}
	o.until("20 leases", func(snap store.Snapshot) bool { return len(snap.Leases) == 20 })
}

func testCompactedAway(s *suite) {
	s.SetNetwork(Config4)
	for i := 1; i <= 3; i++ {
		key := fmt.Sprintf("10.244.%d.0-24", i)
		s.Put(key, s.value(subnets(key), node(i)))
	}
	o := s.watch(s.Open())
	before := o.leases("10.244.1.0-24", "10.244.2.0-24", "10.244.3.0-24")
	s.Stop()
	s.Start() // the watch comes back, but to a history without what follows, if it is slower than this
	s.Put("10.244.1.0-24", "{")
	s.Delete("10.244.2.0-24")
	s.Put("10.244.4.0-24", s.value(subnets("10.244.4.0-24"), node(4)))
	s.Compact()
	after := o.leases("10.244.1.0-24", "10.244.3.0-24", "10.244.4.0-24")
	if after.Leases[0] != before.Leases[0] || after.Leases[1] != before.Leases[2] {
		s.Error("leases that did not change, or cannot be read, have other pointers")
	}
}

// A datastore that lost its data has not lost its nodes: those that are alive are in every snapshot, while they claim
// again; what nobody claims is gone in the end.
func testWiped(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	r, peer := s.register(st, node(1)), s.register(s.Open(), node(2))
	o := s.watch(st)
	for i := range 20 { // revisions that the new history does not reach
		s.Put("10.244.0.0-24", s.value(subnets("10.244.0.0-24"), node(100+i)))
	}
	o.leases("10.244.0.0-24", r.Lease().Key(), peer.Lease().Key())
	s.eventually("health", func() bool { return st.Health() == nil })
	s.Wipe(Config4)
	o.until("what nobody claims is gone", func(snap store.Snapshot) bool {
		for _, alive := range []*store.Lease{r.Lease(), peer.Lease()} {
			if store.Find(snap.Leases, alive.Subnets()) == nil {
				s.Errorf("a snapshot with revision %d lacks %s, whose node is alive", snap.Revision, alive.Key())
			}
		}
		return len(snap.Leases) == 2
	})
	s.eventually("no error", func() bool { return r.Err() == nil && peer.Err() == nil })
	for _, alive := range []store.Registration{r, peer} {
		s.eventually(alive.Lease().Key()+" is claimed again", func() bool { _, ok := s.Get(alive.Lease().Key()); return ok })
	}
}
