package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness { return newHarness(t, nil) })
}

func attrs(i int) store.Attributes {
	return store.Attributes{
		PublicIP: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), BackendType: "vxlan",
		BackendData: fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i>>8&255, i&255),
	}
}

func value(t testing.TB, key string, i int) string {
	t.Helper()
	s, err := store.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := store.NewLease(s, attrs(i)).Value()
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func (h *harness) register(s *Store, i int) store.Registration {
	h.t.Helper()
	n, err := s.Network(h.ctx())
	h.must(err)
	r, err := s.Register(h.ctx(), n, attrs(i), nil)
	h.must(err)
	return r
}

func (h *harness) eventually(what string, done func() bool) {
	h.t.Helper()
	storetest.Eventually(h.t, 5*time.Second, what, done)
}

func TestEtcdLeaseRevoked(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	r := h.register(h.open(), 1)
	name := r.Lease().Key()
	before := h.record(name)
	_, err := h.client.Revoke(h.ctx(), clientv3.LeaseID(before.Lease))
	h.must(err)
	h.eventually("the record is back under a new etcd lease", func() bool {
		kv := h.record(name)
		return kv != nil && kv.Lease != before.Lease && kv.Lease != 0 && bytes.Equal(kv.Value, before.Value)
	})
	h.must(r.Err())
}

func TestEtcdLeaseDetached(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	name := h.register(h.open(), 1).Lease().Key()
	before := h.record(name)
	h.Put(name, string(before.Value)) // as by hand, without a lease
	h.eventually("the record is attached again", func() bool { return h.record(name).Lease == before.Lease })
}

func TestExpiredDuringOutage(t *testing.T) {
	h := newHarness(t, nil)
	h.config = func(c *Config) { c.LeaseTTL = time.Second }
	h.SetNetwork(storetest.Config4)
	r := h.register(h.open(), 1)
	name := r.Lease().Key()
	h.cut()
	h.eventually("the record expires", func() bool { return h.record(name) == nil })
	h.mend()
	h.eventually("the same subnet is claimed again", func() bool { return h.record(name) != nil })
	h.eventually("no error is left", func() bool { return r.Err() == nil })
}

func TestKeptAlive(t *testing.T) {
	h := newHarness(t, nil)
	h.config = func(c *Config) { c.LeaseTTL = time.Second }
	h.SetNetwork(storetest.Config4)
	r := h.register(h.open(), 1)
	before := h.record(r.Lease().Key())
	<-time.After(3500 * time.Millisecond) // the record of a node that does not renew is gone by then
	if after := h.record(r.Lease().Key()); after == nil || after.ModRevision != before.ModRevision {
		t.Errorf("the record was %v, now it is %v; renewing should leave it as it was", before, after)
	}
	h.must(r.Close())
	h.eventually("the record of a node that is gone expires", func() bool { return h.record(r.Lease().Key()) == nil })
}

// A record that flannel wrote for this node is taken over, with its etcd lease if that has the right TTL.
func TestTakeover(t *testing.T) {
	const name = "10.244.77.0-24"
	tests := []struct {
		name          string
		ttl           int64 // 0: no lease, a reservation
		value         string
		keepLease     bool
		keepUntouched bool
	}{
		{"flannel's", 86400, `{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`, true, false},
		{"another TTL", 3600, `{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`, false, false},
		{"reservation", 0, `{"PublicIP":"192.168.0.1"}`, true, false},
		{"nothing to change", 86400, value(t, name, 1), true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t, nil)
			h.SetNetwork(storetest.Config4)
			var opts []clientv3.OpOption
			if test.ttl != 0 {
				lease, err := h.client.Grant(h.ctx(), test.ttl)
				h.must(err)
				opts = append(opts, clientv3.WithLease(lease.ID))
			}
			h.put("subnets/"+name, test.value, opts...)
			before := h.record(name)
			r := h.register(h.open(), 1)
			after := h.record(name)
			if r.Lease().Key() != name || string(after.Value) != value(t, name, 1) {
				t.Errorf("have %s = %s", r.Lease().Key(), after.Value)
			}
			if (after.Lease == before.Lease) != test.keepLease {
				t.Errorf("the etcd lease was %x and is %x", before.Lease, after.Lease)
			}
			if (after.ModRevision == before.ModRevision) != test.keepUntouched {
				t.Errorf("the record's revision was %d and is %d", before.ModRevision, after.ModRevision)
			}
		})
	}
}

func TestNothingLeftAfterExhaustion(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(`{"Network":"10.244.0.0/24","SubnetLen":26,"SubnetMin":"10.244.0.64","SubnetMax":"10.244.0.64"}`)
	s := h.open()
	h.register(s, 1)
	n, err := s.Network(h.ctx())
	h.must(err)
	if _, err := s.Register(h.ctx(), n, attrs(2), nil); !errors.Is(err, store.ErrExhausted) {
		t.Errorf("have %v, want ErrExhausted", err)
	}
	leases, err := h.client.Leases(h.ctx())
	h.must(err)
	if len(leases.Leases) != 1 {
		t.Errorf("%d etcd leases are there, want that of the one node", len(leases.Leases))
	}
}

// Two nodes that were given one public address must not write at the speed of the network.
func TestRivalsWriteSlowly(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	first := h.register(h.open(), 1)
	rival := attrs(1)
	rival.BackendData = []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:ff:ff"}`)
	s := h.open()
	n, err := s.Network(h.ctx())
	h.must(err)
	r, err := s.Register(h.ctx(), n, rival, nil)
	h.must(err)
	if r.Lease().Key() != first.Lease().Key() {
		t.Fatalf("one node has %s, the other %s", first.Lease().Key(), r.Lease().Key())
	}
	<-time.After(3 * time.Second)
	if v := h.record(r.Lease().Key()).Version; v < 3 || v > 20 {
		t.Errorf("the record was written %d times in 3 s", v)
	}
}

func TestSilentEtcd(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	h.eventually("health", func() bool { return s.Health() == nil })
	h.proxy.freeze()
	h.eventually("bad health", func() bool { return s.Health() != nil })
	h.cut()
	h.mend()
	h.eventually("good health", func() bool { return s.Health() == nil })
}

func TestDeadEndpointAmongOthers(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	h.config = func(c *Config) { c.Endpoints = append([]string{"http://127.0.0.1:1"}, c.Endpoints...) }
	s := h.open()
	h.register(s, 1)
	h.eventually("health", func() bool { return s.Health() == nil })
}

func TestUnixSocket(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	path := filepath.Join(t.TempDir(), "etcd.sock")
	l, err := net.Listen("unix", path)
	h.must(err)
	unix := &proxy{t: t, listener: l}
	unix.start(h.target())
	t.Cleanup(unix.stop)
	h.config = func(c *Config) { c.Endpoints = []string{"unix://" + path} }
	h.register(h.open(), 1)
}

func TestOtherPrefix(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	h.config = func(c *Config) { c.Prefix = "/other/" }
	s := h.open()
	if _, err := s.Network(h.ctx()); !errors.Is(err, store.ErrNoNetwork) {
		t.Errorf("have %v, want ErrNoNetwork", err)
	}
	_, err := h.client.Put(h.ctx(), "/other/config", storetest.Config4)
	h.must(err)
	r := h.register(s, 1)
	resp, err := h.client.Get(h.ctx(), "/other/subnets/"+r.Lease().Key())
	h.must(err)
	if len(resp.Kvs) != 1 {
		t.Error("the record is not under the prefix")
	}
}

func TestGarbageIsLoggedOnce(t *testing.T) {
	h := newHarness(t, nil)
	var log lines
	h.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.SetNetwork(storetest.Config4)
	h.Put("10.244.1.0-24", "{")
	snapshots := follow(t, h.open())
	<-snapshots
	for i := range 5 {
		h.Put("10.244.1.0-24", "{")
		h.Put("10.244.2.0-24", value(t, "10.244.2.0-24", i+1))
		h.Compact()
		<-snapshots
	}
	h.cut()
	h.Put("10.244.1.0-24", "{") // this is compacted before the watch sees it
	h.Put("10.244.2.0-24", value(t, "10.244.2.0-24", 9))
	h.Compact()
	h.mend()
	<-snapshots
	if n := strings.Count(log.String(), "10.244.1.0-24"); n != 1 {
		t.Errorf("one bad record was logged %d times:\n%s", n, log.String())
	}
}

// follow runs a watch until the end of the test.
func follow(t testing.TB, s *Store) <-chan store.Snapshot {
	ctx, cancel := context.WithCancel(context.Background())
	snapshots := make(chan store.Snapshot)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Watch(ctx, func(snap store.Snapshot) {
			select {
			case snapshots <- snap:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return snapshots
}

// fill stores n records, many in one transaction.
func (h *harness) fill(n int) {
	h.t.Helper()
	var ops []clientv3.Op
	for i := range n {
		key := fmt.Sprintf("10.%d.%d.0-24", i>>8, i&255)
		ops = append(ops, clientv3.OpPut(DefaultPrefix+"/subnets/"+key, value(h.t, key, i+1)))
		if len(ops) == 100 || i == n-1 {
			_, err := h.client.Txn(h.ctx()).Then(ops...).Commit()
			h.must(err)
			ops = ops[:0]
		}
	}
}

func TestLoadInPages(t *testing.T) {
	h := newHarness(t, nil)
	h.fill(2*pageSize + 1)
	if snap := <-follow(t, h.open()); len(snap.Leases) != 2*pageSize+1 {
		t.Errorf("the first snapshot has %d leases", len(snap.Leases))
	}
}

// Changes that come while a snapshot is being worked on come as few snapshots.
func TestChangesAreCoalesced(t *testing.T) {
	h := newHarness(t, nil)
	snapshots := follow(t, h.open())
	<-snapshots
	h.fill(1) // its snapshot is not taken from the channel until all else has happened
	for i := 1; i < 300; i++ {
		key := fmt.Sprintf("10.%d.%d.0-24", i>>8, i&255)
		h.Put(key, value(t, key, i))
	}
	h.Compact()
	for taken := 1; ; taken++ {
		if snap := <-snapshots; len(snap.Leases) == 300 {
			if taken > 10 {
				t.Errorf("300 changes came as %d snapshots", taken)
			}
			return
		}
	}
}

func TestStopsCleanly(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	before := runtime.NumGoroutine()
	for range 5 {
		s, err := Open(Config{Endpoints: []string{"http://" + h.proxy.addr}}, h.log)
		h.must(err)
		h.register(s, 1)
		ctx, cancel := context.WithCancel(context.Background())
		_ = s.Watch(ctx, func(store.Snapshot) { cancel() })
		h.must(s.Close())
	}
	h.eventually("the goroutines of closed stores are gone", func() bool { return runtime.NumGoroutine() <= before+10 })
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(bad, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		cfg        Config
	}{
		{"no endpoint", "no endpoint", Config{}},
		{"unknown scheme", "ftp://x", Config{Endpoints: []string{"ftp://x"}}},
		{"empty endpoint", `endpoint ""`, Config{Endpoints: []string{""}}},
		{"with and without TLS", "does not", Config{Endpoints: []string{"https://a:1", "http://b:1"}}},
		{"certificates without TLS", "does not use TLS", Config{Endpoints: []string{"http://a:1"}, CAFile: bad}},
		{"key without certificate", "key", Config{Endpoints: []string{"https://a:1"}, KeyFile: bad}},
		{"no CA file", "missing.pem", Config{Endpoints: []string{"https://a:1"}, CAFile: filepath.Join(dir, "missing.pem")}},
		{"no CA in the file", bad, Config{Endpoints: []string{"https://a:1"}, CAFile: bad}},
		{"no certificate in the file", bad, Config{Endpoints: []string{"https://a:1"}, CertFile: bad, KeyFile: bad}},
		{"password without user", "user name", Config{Endpoints: []string{"a:1"}, Password: "secret"}},
		{"user without password", `"u" has no password`, Config{Endpoints: []string{"a:1"}, Username: "u"}},
		{"no password file", "missing", Config{Endpoints: []string{"a:1"}, Username: "u", PasswordFile: filepath.Join(dir, "missing")}},
		{"short TTL", "at least a second", Config{Endpoints: []string{"a:1"}, LeaseTTL: time.Millisecond}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(test.cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				_ = s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("have error %v, want one with %q", err, test.want)
			}
		})
	}
}
