package storetest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/store"
)

// Harness is a datastore's backend in the hands of a test. Its methods fail the test when they cannot do their work. Records
// are named by store.Subnets.Key.
type Harness interface {
	Backend
	// Open returns a new node's store. It is closed at the end of the test if it was not before. It works while the backend is stopped.
	Open() store.Store
	// SetNetwork stores the network configuration.
	SetNetwork(config string)
	// Put stores a record with any content, by another hand than the stores'; Delete removes one.
	Put(name, value string)
	Delete(name string)
	// Get returns a record's content.
	Get(name string) (value string, ok bool)
	// PutNode stores what the operator says of a node, with any content; DeleteNode removes it.
	PutNode(name, value string)
	DeleteNode(name string)
	// Wipe ends the backend and starts it with nothing but the network configuration config.
	Wipe(config string)
	// Given reports whether nodes do not choose their subnets, but get them from the cluster's own controllers, and have the network
	// configuration with them. What a node does when it chooses is not tested then; the harness plays the controller's part in Register.
	Given() bool
}

// Config4 and Config6 are network configurations of one family each, ConfigDual is of both.
const (
	Config4    = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`
	Config6    = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
	ConfigDual = `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
)

// soon is how long after a disturbance a store may take to be right again.
const soon = 10 * time.Second

// choosing begins the names of tests of nodes that choose their subnets.
const choosing = "choosing: "

// Run runs the contract suite. newHarness returns a running backend that holds nothing; it is called once for each test.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"network config", testNetwork},
		{"200 nodes at once", testConcurrent},
		{"200 dual-stack nodes at once", testConcurrentDual},
		{"IPv6 only", testIPv6},
		{choosing + "nearly full, then exhausted", testExhausted},
		{"same subnet after a restart", testRestart},
		{choosing + "preferred subnets", testPreferred},
		{"IPv6 enabled later", testUpgradeToDual},
		{"new attributes", testUpdate},
		{"record deleted", testDeleted},
		{"record overwritten with garbage", testOverwritten},
		{choosing + "subnet taken by another node", testLost},
		{"peers come, change and go", testPeers},
		{"garbage records", testGarbage},
		{"down at start", testDownAtStart},
		{"outage", testOutage},
		{"compacted", testCompacted},
		{"compacted during an outage", testCompactedAway},
		{"wiped", testWiped},
		{"node record comes, changes and goes", testNodeRecord},
		{"node record that cannot be read", testNodeRecordGarbage},
		{"node record through outages and compaction", testNodeRecordOutage},
		{"node record wiped", testNodeRecordWiped},
		{"closed store", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, Harness: newHarness(t)}
			if strings.HasPrefix(test.name, choosing) && s.Given() {
				t.Skip("this datastore's nodes do not choose their subnets")
			}
			test.run(s)
		})
	}
}

// suite is one test of the contract.
type suite struct {
	*testing.T
	Harness
}

func (s *suite) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Eventually polls until done reports true, and fails the test when that takes longer than limit.
func Eventually(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (s *suite) eventually(what string, done func() bool) {
	s.Helper()
	Eventually(s, soon, what, done)
}

// network reads the configuration once the backend answers.
func (s *suite) network(st store.Store) store.Network {
	s.Helper()
	n, err := st.Network(s.Context())
	s.check(err)
	return n
}

// node returns the attributes of the node with the given number.
func node(i int) store.Attributes {
	v6 := netip.MustParseAddr("2001:db8::").As16()
	v6[14], v6[15] = byte(i>>8), byte(i)
	mac := fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i>>8, i&255)
	return store.Attributes{
		NodeName: fmt.Sprintf("node-%d", i),
		PublicIP: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), PublicIPv6: netip.AddrFrom16(v6),
		BackendType: "vxlan", BackendData: []byte(mac), BackendV6Data: []byte(mac),
	}
}

// value is what the record of a node with these attributes says.
func (s *suite) value(subnets store.Subnets, a store.Attributes) string {
	s.Helper()
	value, err := store.NewLease(subnets, a).Value()
	s.check(err)
	return string(value)
}

func subnets(key string) store.Subnets {
	s, err := store.ParseKey(key)
	if err != nil {
		panic(err)
	}
	return s
}

func (s *suite) register(st store.Store, a store.Attributes, preferred ...store.Subnets) store.Registration {
	s.Helper()
	r, err := st.Register(s.Context(), s.network(st), a, preferred)
	s.check(err)
	s.Cleanup(func() { _ = r.Close() })
	return r
}

// observer holds what a watch emitted.
type observer struct {
	*suite
	watch *watching[store.Snapshot]
	last  store.Snapshot
}

func (s *suite) watch(st store.Store) *observer {
	o := &observer{suite: s}
	o.watch = newWatching(s, st.Watch, o.take, func() string {
		return fmt.Sprintf("%d leases, rejected %v", len(o.last.Leases), o.last.Rejected)
	})
	return o
}

// take checks that revisions grow and that leases are sorted.
func (o *observer) take(snap store.Snapshot) {
	o.Helper()
	if snap.Revision <= o.last.Revision {
		o.Errorf("revision %d follows %d", snap.Revision, o.last.Revision)
	}
	for i := 1; i < len(snap.Leases); i++ {
		if snap.Leases[i-1].Subnets().Compare(snap.Leases[i].Subnets()) >= 0 {
			o.Errorf("leases are not sorted: %s before %s", snap.Leases[i-1].Key(), snap.Leases[i].Key())
		}
	}
	o.last = snap
}

// until takes snapshots until one is as wanted, and returns it.
func (o *observer) until(what string, wanted func(store.Snapshot) bool) store.Snapshot {
	o.Helper()
	o.watch.Until(what, func() bool { return wanted(o.last) })
	return o.last
}

// leases waits for a snapshot with exactly these records.
func (o *observer) leases(names ...string) store.Snapshot {
	o.Helper()
	return o.until(fmt.Sprintf("leases %v", names), func(snap store.Snapshot) bool {
		if len(snap.Leases) != len(names) {
			return false
		}
		for _, name := range names {
			if store.Find(snap.Leases, subnets(name)) == nil {
				return false
			}
		}
		return true
	})
}
