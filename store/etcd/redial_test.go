package etcd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

// A node whose address changed says so, and hears of others, without waiting for the transport to give up the old connection.
func TestRedial(t *testing.T) {
	for name, newHarness := range map[string]func(*testing.T) *harness{
		"plain": func(t *testing.T) *harness { return newHarness(t, nil) },
		"TLS":   func(t *testing.T) *harness { h, _ := newTLSHarness(t); return h },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.SetNetwork(storetest.Config4)
			s := h.open()
			r := h.register(s, 1)
			subnet := r.Lease().Key()
			snapshots := follow(t, s)
			<-snapshots
			before := h.proxy.count()

			s.Redial([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")})
			h.put("subnets/10.0.0.0-24", value(t, "10.0.0.0-24", 2))
			<-snapshots
			if n := h.proxy.count(); n != before {
				t.Errorf("there were %d ends of connections, and after a redial for other addresses %d", before, n)
			}

			h.proxy.freezeOpen()
			begin := time.Now()
			s.Redial([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
			r.Update(attrs(3))
			h.eventually("the new address is stored", func() bool { return string(h.record(subnet).Value) == value(t, subnet, 3) })
			stored := time.Since(begin)
			for snap := range snapshots {
				if l := store.Find(snap.Leases, r.Lease().Subnets()); l != nil && l.PublicIP == attrs(3).PublicIP {
					break
				}
			}
			if told := time.Since(begin); told > 2*time.Second {
				t.Errorf("stored after %s, the watch goes on after %s", stored, told)
			}
			h.must(r.Err())
			h.must(s.Close())
			if n := s.conns.Len(); n != 0 {
				t.Errorf("%d connections of a closed store are open", n)
			}
		})
	}
}

// Requests that are under way when their connection is closed are not lost: reads are made again at once.
func TestRedialWhileReading(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	h.eventually("health", func() bool { return s.Health() == nil })
	h.proxy.freezeOpen()
	result := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := s.Network(t.Context())
		result <- err
	}()
	<-time.After(50 * time.Millisecond) // it is under way
	s.Redial([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err := <-result; err != nil || time.Since(begin) > 2*time.Second {
		t.Errorf("the read ends with %v after %s", err, time.Since(begin))
	}
}
