package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/store"
)

func testNetwork(s *suite) {
	st := s.Open()
	if _, err := st.Network(s.Context()); !errors.Is(err, store.ErrNoNetwork) {
		s.Errorf("without a config: have error %v, want ErrNoNetwork", err)
	}
	s.SetNetwork(`{"Network":"10.244.0.0/16","SubnetLen":99}`)
	if _, err := st.Network(s.Context()); err == nil || errors.Is(err, store.ErrNoNetwork) || !strings.Contains(err.Error(), "SubnetLen") {
		s.Errorf("wrong config: have error %v, want one that names SubnetLen", err)
	}
	s.SetNetwork(ConfigDual)
	if n := s.network(st); !n.EnableIPv4 || !n.EnableIPv6 || n.BackendType != "vxlan" {
		s.Errorf("have %+v", n)
	}
}

// registerAll registers nodes from 1 to n at the same time, each with a store of its own. As a node does, it tries again when the backend
// is too busy to answer.
func (s *suite) registerAll(n int) []store.Registration {
	s.Helper()
	registrations := make([]store.Registration, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	deadline := time.Now().Add(time.Minute)
	for i := range n {
		st := s.Open()
		all.Go(func() {
			for registrations[i] == nil && time.Now().Before(deadline) {
				network, err := st.Network(s.Context())
				if err == nil {
					registrations[i], err = st.Register(s.Context(), network, node(i+1), nil)
				}
				errs[i] = err
			}
		})
	}
	all.Wait()
	s.check(errors.Join(errs...))
	return registrations
}

func (s *suite) distinct(registrations []store.Registration) {
	s.Helper()
	seen := map[string]int{}
	for i, r := range registrations {
		l := r.Lease()
		for _, p := range []string{l.Subnet.String(), l.IPv6Subnet.String()} {
			if j, taken := seen[p]; taken && !strings.Contains(p, "invalid") {
				s.Errorf("nodes %d and %d both have %s", i+1, j+1, p)
			}
			seen[p] = i
		}
		if value, ok := s.Get(l.Key()); !ok || value != s.value(l.Subnets(), node(i+1)) {
			s.Errorf("record %s of node %d: have %q", l.Key(), i+1, value)
		}
	}
}

func testConcurrent(s *suite) {
	s.SetNetwork(Config4)
	s.distinct(s.registerAll(200))
}

func testConcurrentDual(s *suite) {
	// 254 subnets of each family, and of IPv6 some are taken: the pairing of numbers alone does not do.
	s.SetNetwork(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/56","Backend":{"Type":"vxlan"}}`)
	for i := 1; i < 50; i++ {
		key := fmt.Sprintf("0.0.0.0-0&fd00:10:244:%x::-64", i)
		s.Put(key, s.value(subnets(key), node(1000+i)))
	}
	s.distinct(s.registerAll(200))
}

func testIPv6(s *suite) {
	s.SetNetwork(Config6)
	rs := s.registerAll(5)
	s.distinct(rs)
	for _, r := range rs {
		if l := r.Lease(); l.Subnet.IsValid() || !strings.HasPrefix(l.Key(), "0.0.0.0-0&fd00:10:244:") {
			s.Errorf("have %s", l.Key())
		}
	}
}

func testExhausted(s *suite) {
	s.SetNetwork(`{"Network":"10.244.0.0/24","SubnetLen":28,"SubnetMin":"10.244.0.32","SubnetMax":"10.244.0.96","Backend":{"Type":"vxlan"}}`)
	s.distinct(s.registerAll(5)) // .32, .48, .64, .80, .96
	st := s.Open()
	if _, err := st.Register(s.Context(), s.network(st), node(6), nil); !errors.Is(err, store.ErrExhausted) {
		s.Errorf("have error %v, want ErrExhausted", err)
	}
	s.Delete("10.244.0.64-28")
	// The record of a node that runs comes back, and only a subnet that nobody holds is given away.
	s.eventually("the record is back", func() bool { _, ok := s.Get("10.244.0.64-28"); return ok })
}

func testRestart(s *suite) {
	s.SetNetwork(Config4)
	first := s.Open()
	r := s.register(first, node(1))
	want := r.Lease()
	s.check(r.Close())
	s.check(first.Close())
	if _, ok := s.Get(want.Key()); !ok {
		s.Fatal("the record went with its registration")
	}
	st := s.Open()
	o := s.watch(st)
	before := o.leases(want.Key())
	again := s.register(st, node(1), subnets("10.244.7.0-24"))
	if again.Lease().Key() != want.Key() {
		s.Errorf("have %s, want the subnet of the earlier run, %s", again.Lease().Key(), want.Key())
	}
	s.Put("10.244.250.0-24", s.value(subnets("10.244.250.0-24"), node(2)))
	after := o.leases(want.Key(), "10.244.250.0-24")
	if store.Find(before.Leases, want.Subnets()) != store.Find(after.Leases, want.Subnets()) || o.watch.Told != 2 {
		s.Error("a restart without any change was an event for the others")
	}
}

func testPreferred(s *suite) {
	s.SetNetwork(Config4)
	s.Put("10.244.8.0-24", s.value(subnets("10.244.8.0-24"), node(9)))
	st := s.Open()
	r := s.register(st, node(1), subnets("10.244.8.0-24"), subnets("10.99.0.0-24"), subnets("10.244.9.0-25"), subnets("10.244.10.0-24"))
	if have := r.Lease().Key(); have != "10.244.10.0-24" {
		s.Errorf("have %s; of the preferred ones the first is taken, two do not fit and 10.244.10.0-24 is free", have)
	}
}

func testUpgradeToDual(s *suite) {
	s.SetNetwork(Config4)
	first := s.Open()
	r := s.register(first, node(1))
	old := r.Lease()
	s.check(first.Close())
	s.SetNetwork(ConfigDual)
	st := s.Open()
	l := s.register(st, node(1)).Lease()
	if l.Subnet != old.Subnet || !l.IPv6Subnet.IsValid() {
		s.Errorf("have %s, want %s and an IPv6 subnet", l.Subnets(), old.Subnet)
	}
	if _, ok := s.Get(old.Key()); ok {
		s.Errorf("the record %s, which was replaced, is still there", old.Key())
	}
}

func testUpdate(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	r := s.register(st, node(1))
	key := r.Lease().Key()
	r.Update(node(2))
	r.Update(node(3))
	want := s.value(subnets(key), node(3))
	s.eventually("new attributes are stored", func() bool { have, _ := s.Get(key); return have == want })
	s.eventually("new attributes are the lease's", func() bool { return r.Lease().PublicIP == node(3).PublicIP })

	s.Stop()
	r.Update(node(4))
	s.eventually("a failed update is an error", func() bool { return r.Err() != nil })
	s.Start()
	want = s.value(subnets(key), node(4))
	s.eventually("attributes of an outage are stored", func() bool { have, _ := s.Get(key); return have == want })
	s.eventually("the error is gone", func() bool { return r.Err() == nil })
}

func testDeleted(s *suite) {
	s.SetNetwork(ConfigDual)
	st := s.Open()
	r := s.register(st, node(1))
	key := r.Lease().Key()
	want, _ := s.Get(key)
	for range 3 {
		s.Delete(key)
		s.eventually("the record is back", func() bool { have, _ := s.Get(key); return have == want })
	}
	s.check(r.Err())
}

func testOverwritten(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	r := s.register(st, node(1))
	key := r.Lease().Key()
	want, _ := s.Get(key)
	s.Put(key, "{garbage")
	s.eventually("the record is right again", func() bool { have, _ := s.Get(key); return have == want })
}

func testLost(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	r := s.register(st, node(1))
	key := r.Lease().Key()
	other := s.value(subnets(key), node(2))
	s.Put(key, other)
	s.eventually("the loss is told", func() bool {
		select {
		case <-r.Lost():
			return true
		default:
			return false
		}
	})
	if err := r.Err(); !errors.Is(err, store.ErrLost) {
		s.Errorf("lost: have error %v, want ErrLost", err)
	}
	if have, _ := s.Get(key); have != other {
		s.Errorf("the other node's record was touched: %s", have)
	}
	again := s.register(st, node(1), subnets(key))
	if again.Lease().Key() == key {
		s.Errorf("registering again gave the other node's subnet")
	}
	s.check(again.Close())
	s.Delete(key)
	s.eventually("the subnet is free and taken back", func() bool { have, ok := s.Get(key); return ok && have != other })
	s.eventually("no error", func() bool { return r.Err() == nil })
}

func testClosed(s *suite) {
	s.SetNetwork(Config4)
	st := s.Open()
	network := s.network(st)
	r := s.register(st, node(1))
	o := s.watch(st)
	o.leases(r.Lease().Key())
	s.check(st.Close())
	if err := st.Close(); err != nil {
		s.Errorf("closing twice: %v", err)
	}
	started := time.Now()
	if _, err := st.Network(s.Context()); err == nil {
		s.Error("Network works on a closed store")
	}
	if _, err := st.Register(s.Context(), network, node(2), nil); err == nil {
		s.Error("Register works on a closed store")
	}
	if err := st.Watch(s.Context(), func(store.Snapshot) {}); err == nil {
		s.Error("Watch on a closed store returned nil")
	}
	if d := time.Since(started); d > soon {
		s.Errorf("a closed store took %s to say so", d)
	}
	s.check(r.Close())
}
