package reconcile_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/reconcile"
)

const overlayLink = "flannel.1"

var errRefused = errors.New("refused")

// rig is a Reconciler on a kernel in memory, wired like a daemon: notifications go to Observe.
type rig struct {
	t      testing.TB
	kernel *kerneltest.Kernel
	tables *kerneltest.Tables
	*reconcile.Reconciler
	due       int  // number of notifications that made a Sync due
	disturbed bool // somebody changed the kernel in the middle of a Sync
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, kernel: kerneltest.New(), tables: kerneltest.NewTables()}
	r.restart()
	return r
}

// restart replaces the Reconciler by one that has no memory.
func (r *rig) restart() {
	r.Reconciler = reconcile.New(r.kernel, r.tables, slog.New(slog.NewTextHandler(io.Discard, nil)))
	observe := func(ev kernel.Event) {
		if r.Observe(ev) {
			r.due++
		}
	}
	r.kernel.Observe(observe)
	r.tables.Observe(observe)
}

// sync runs one Sync that must succeed and leave the kernel in sync.
func (r *rig) sync(want kernel.State) reconcile.Result {
	r.t.Helper()
	result, err := r.Sync(r.t.Context(), want)
	if err != nil {
		r.t.Fatalf("sync: %v", err)
	}
	if !result.InSync {
		r.t.Fatalf("not in sync after a Sync without an error: %+v", result)
	}
	r.checkOrder()
	return result
}

// syncFails runs one Sync that must return an error which names each of the texts.
func (r *rig) syncFails(want kernel.State, texts ...string) reconcile.Result {
	r.t.Helper()
	result, err := r.Sync(r.t.Context(), want)
	if err == nil || result.InSync {
		r.t.Fatalf("sync: error %v, in sync %v; want an error", err, result.InSync)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.t.Errorf("sync: error %q does not say %q", err, text)
		}
	}
	r.checkOrder()
	return result
}

func (r *rig) checkOrder() {
	r.t.Helper()
	if v := r.kernel.Violations(); len(v) > 0 {
		r.t.Fatalf("a packet could have gone to where nothing is:\n%s", strings.Join(v, "\n"))
	}
}

func (r *rig) checkDump(want string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.kernel.Dump()); diff != "" {
		r.t.Errorf("kernel (-want +got):\n%s", diff)
	}
}

// fresh is what an empty kernel holds after one Sync of want.
func fresh(t testing.TB, want kernel.State) string {
	t.Helper()
	r := newRig(t)
	r.sync(want)
	return r.kernel.Dump()
}

// overlay is a state with the overlay device and a fragment for each of the peers.
func overlay(peers ...int) kernel.State {
	s := kernel.State{Links: []kernel.Link{vxlan()}}
	for _, i := range peers {
		s.Fragments = append(s.Fragments, peer(i))
	}
	return s
}

func vxlan() kernel.Link {
	return kernel.Link{
		Name:      overlayLink,
		MTU:       1450,
		MAC:       kernel.StableMAC("this node"),
		Up:        true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/32")},
		VXLAN:     &kernel.VXLAN{VNI: 1, Uplink: "eth0", Local: netip.MustParseAddr("192.0.2.1")},
		Sysctls:   map[string]string{"ipv6/accept_ra": "0"},
	}
}

func peer(i int) *kernel.Fragment { return peerOn(overlayLink, i, mac(i), node(i)) }

func mac(i int) kernel.MAC {
	return kernel.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

func node(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
}

func base(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(10 + i>>16), byte(i >> 8), byte(i), 0})
}

func subnet(i int) netip.Prefix { return netip.PrefixFrom(base(i), 24) }

func owner(i int) string { return fmt.Sprintf("%09d", i) }

// peerOn is what the overlay makes of one lease.
func peerOn(link string, i int, vtep kernel.MAC, at netip.Addr) *kernel.Fragment {
	return &kernel.Fragment{
		Owner:     owner(i),
		Neighbors: []kernel.Neighbor{{Link: link, IP: base(i), MAC: vtep}},
		FDB:       []kernel.FDBEntry{{Link: link, MAC: vtep, Dst: at}},
		Routes: []kernel.Route{{
			Dst:      subnet(i),
			NextHops: []kernel.NextHop{{Gateway: base(i), Link: link, OnLink: true}},
		}},
	}
}

func route(dst, via, link string) kernel.Route {
	return kernel.Route{
		Dst:      netip.MustParsePrefix(dst),
		NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr(via), Link: link}},
	}
}

func uplink() kernel.Link { return kernel.Link{Name: "eth0", Up: true, MTU: 1500, MAC: mac(1)} }

func TestFirstSyncProgramsEverything(t *testing.T) {
	r := newRig(t)
	result := r.sync(overlay(1, 2))
	r.checkDump(`fdb 02:00:00:00:00:01 dev flannel.1 dst 172.16.0.1
fdb 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2
link flannel.1 up mtu 1450 mac ` + vxlan().MAC.String() + ` addr 10.0.0.0/32 vxlan id 1 port 8472 uplink eth0 local 192.0.2.1 ipv6/accept_ra=0
neighbor 10.0.1.0 dev flannel.1 lladdr 02:00:00:00:00:01
neighbor 10.0.2.0 dev flannel.1 lladdr 02:00:00:00:00:02
route 10.0.1.0/24 via 10.0.1.0 dev flannel.1 onlink
route 10.0.2.0/24 via 10.0.2.0 dev flannel.1 onlink
`)
	two := reconcile.Counts{Desired: 2, Programmed: 2, Changes: 2}
	want := reconcile.Result{InSync: true, Kinds: [kernel.NumKinds]reconcile.Counts{
		kernel.KindLink: {Desired: 1, Programmed: 1, Changes: 1}, kernel.KindFDB: two, kernel.KindNeighbor: two, kernel.KindRoute: two}}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestUnchangedStateCostsNoMessages(t *testing.T) {
	r := newRig(t)
	state := overlay(1, 2, 3)
	r.sync(state)
	before := r.kernel.Counts()
	r.sync(state)
	if diff := cmp.Diff(before, r.kernel.Counts()); diff != "" {
		t.Errorf("a second Sync asked the kernel for something (-before +after):\n%s", diff)
	}
}

func TestEchoOfOwnChangesIsNoNews(t *testing.T) {
	r := newRig(t)
	r.sync(overlay(1))
	r.due = 0
	dumps := r.kernel.Counts().Dumps
	r.sync(overlay(2, 3, 4)) // one goes, three come
	r.sync(kernel.State{Links: []kernel.Link{vxlan()}})
	if r.due != 0 {
		t.Errorf("%d of the notifications that our own changes caused asked for a Sync", r.due)
	}
	if diff := cmp.Diff(dumps, r.kernel.Counts().Dumps); diff != "" {
		t.Errorf("something was read again (-before +after):\n%s", diff)
	}
}

// A monitor may lag: the echoes of a cold start come after the Sync. Those of the link are checked by one dump of the
// links.
func TestLateEchoesReadNoEntriesAgain(t *testing.T) {
	r := newRig(t)
	var late []kernel.Event
	r.kernel.Observe(func(ev kernel.Event) { late = append(late, ev) })
	state := overlay(1, 2, 3)
	r.sync(state)
	before := r.kernel.Counts()
	for _, ev := range late {
		r.Observe(ev)
	}
	r.sync(state)
	before.Dumps[kernel.KindLink]++
	if diff := cmp.Diff(before, r.kernel.Counts()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestLeftoversAtStart(t *testing.T) {
	r := newRig(t)
	r.sync(overlay(1, 2, 3))
	r.kernel.PutLink(kernel.Link{Name: "flannel.7", Up: true, VXLAN: &kernel.VXLAN{VNI: 7}}, kerneltest.Ours)
	if err := r.kernel.PutRoute(route("10.9.0.0/24", "10.9.0.1", "flannel.7"), kerneltest.Ours); err != nil {
		t.Fatal(err)
	}

	r.restart()
	before := r.kernel.Counts().Changes
	state := overlay(2, 3, 4)
	state.Fragments[1] = peerOn(overlayLink, 3, mac(33), node(3))
	r.sync(state)
	r.checkDump(fresh(t, state))

	got := r.kernel.Counts().Changes
	for kind := range got {
		got[kind] -= before[kind]
	}
	want := [kernel.NumKinds]int{ // peer 2 is adopted without a message
		kernel.KindLink:     1, // flannel.7 goes
		kernel.KindFDB:      4, // 4 comes, 3 changes its MAC, 1 goes
		kernel.KindNeighbor: 3, // 4 comes, 3 is replaced, 1 goes
		kernel.KindRoute:    3, // 4 comes, 1 and the one on flannel.7 go
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages after a restart (-want +got):\n%s", diff)
	}
}

func TestLinkFoundUnmarkedIsAdopted(t *testing.T) {
	r := newRig(t)
	l := vxlan()
	l.VXLAN.Port = 8472
	r.kernel.PutLink(l, kerneltest.Foreign)
	if err := r.kernel.PutFDB(peer(1).FDB[0], kerneltest.Ours); err != nil {
		t.Fatal(err)
	}
	r.sync(overlay(1))
	if got := r.kernel.Counts().Changes[kernel.KindFDB]; got != 0 {
		t.Errorf("%d FDB messages: the device was not adopted as it was", got)
	}
	r.checkDump(fresh(t, overlay(1)))
}

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	r := newRig(t)
	r.kernel.PutLink(uplink(), kerneltest.Foreign)
	r.kernel.PutLink(kernel.Link{Name: "flannel.9", Up: true, VXLAN: &kernel.VXLAN{VNI: 9}}, kerneltest.Foreign)
	for _, err := range []error{
		r.kernel.PutRoute(route("0.0.0.0/0", "192.0.2.254", "eth0"), kerneltest.Foreign),
		r.kernel.PutNeighbor(kernel.Neighbor{Link: "eth0", IP: node(9), MAC: mac(9)}, kerneltest.Ours), // permanent, by the administrator
		r.kernel.PutFDB(kernel.FDBEntry{Link: "flannel.9", MAC: mac(9), Dst: node(9)}, kerneltest.Ours),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.tables.PutTable(kernel.Table{Name: "docker"})
	r.tables.PutTable(kernel.Table{Name: "twill-portmap"})
	before, tables := r.kernel.Dump(), r.tables.Dump()

	state := overlay(1, 2)
	state.Tables = []kernel.Table{{Name: "twill-masquerade"}}
	r.sync(state)
	r.Resync()
	r.sync(kernel.State{})
	r.checkDump(before)
	if diff := cmp.Diff(tables, r.tables.Dump()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

// The kernel reports an IPv6 route without a metric with metric 1024.
func TestDualStackIsAdoptedAfterRestart(t *testing.T) {
	r := newRig(t)
	gateway := netip.MustParseAddr("fd00:0:0:1::")
	state := overlay(1)
	both := *state.Fragments[0]
	both.Neighbors = append(both.Neighbors, kernel.Neighbor{Link: overlayLink, IP: gateway, MAC: mac(1)})
	both.Routes = append(both.Routes, kernel.Route{
		Dst:      netip.PrefixFrom(gateway, 64),
		NextHops: []kernel.NextHop{{Gateway: gateway, Link: overlayLink, OnLink: true}},
	})
	state.Fragments[0] = &both
	r.sync(state)

	reported := both.Routes[1]
	reported.Metric = 1024
	if err := r.kernel.PutRoute(reported, kerneltest.Ours); err != nil {
		t.Fatal(err)
	}
	r.restart()
	before := r.kernel.Counts().Changes
	r.sync(state)
	if diff := cmp.Diff(before, r.kernel.Counts().Changes); diff != "" {
		t.Errorf("messages after a restart (-before +after):\n%s", diff)
	}
}
