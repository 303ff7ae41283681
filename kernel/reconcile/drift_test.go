package reconcile_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

// driftState has every kind of object, and a route that does not use the overlay device.
func driftState() kernel.State {
	s := overlay(1, 2)
	s.Links = append(s.Links, kernel.Link{Name: "cni0", Up: true, Bridge: &kernel.Bridge{Hairpin: true, PortAliasPrefix: "twill-pod "}})
	s.Fragments = append(s.Fragments, &kernel.Fragment{Owner: "direct", Routes: []kernel.Route{route("10.7.0.0/24", "192.0.2.7", "eth0")}})
	s.Tables = []kernel.Table{{Name: "twill-masquerade", Chains: []kernel.Chain{{Name: "postrouting"}}}}
	return s
}

// driftRig holds driftState, in sync, with the uplink being somebody else's.
func driftRig(t testing.TB, state kernel.State) *rig {
	r := newRig(t)
	r.kernel.PutLink(uplink(), kerneltest.Foreign)
	r.sync(state)
	r.sync(state) // the echo of the links and tables
	r.due = 0
	return r
}

func TestDriftIsRepairedInOneSync(t *testing.T) {
	changed := vxlan()
	changed.VXLAN.Port = 8472
	tests := []struct {
		name  string
		drift func(k *kerneltest.Kernel, tables *kerneltest.Tables) error
	}{
		{"fdb entry removed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.DeleteFDB(peer(1).FDB[0].Key())
			return nil
		}},
		{"fdb entry changed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutFDB(kernel.FDBEntry{Link: overlayLink, MAC: mac(1), Dst: node(99)}, kerneltest.Ours)
		}},
		{"fdb entry added", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutFDB(kernel.FDBEntry{Link: overlayLink, MAC: mac(99), Dst: node(99)}, kerneltest.Ours)
		}},
		{"neighbor removed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.DeleteNeighbor(peer(1).Neighbors[0].Key())
			return nil
		}},
		{"neighbor changed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutNeighbor(kernel.Neighbor{Link: overlayLink, IP: base(1), MAC: mac(99)}, kerneltest.Ours)
		}},
		{"neighbor not permanent any more", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutNeighbor(peer(1).Neighbors[0], kerneltest.Foreign)
		}},
		{"route removed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.DeleteRoute(peer(1).Routes[0].Key())
			return nil
		}},
		{"route replaced by a foreign one", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutRoute(route("10.0.1.0/24", "192.0.2.9", "eth0"), kerneltest.Foreign)
		}},
		{"route of ours added", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			return k.PutRoute(route("10.99.0.0/24", "192.0.2.9", "eth0"), kerneltest.Ours)
		}},
		{"overlay device removed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.DeleteLink(overlayLink)
			return nil
		}},
		{"overlay device set down", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.SetUp(overlayLink, false)
			return nil
		}},
		{"overlay device set down and up", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.SetUp(overlayLink, false)
			k.SetUp(overlayLink, true)
			return nil
		}},
		{"overlay device made again by hand", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.DeleteLink(overlayLink)
			k.PutLink(changed, kerneltest.Foreign)
			return nil
		}},
		{"overlay device of another VNI", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			l := changed
			l.VXLAN = &kernel.VXLAN{VNI: 5}
			k.PutLink(l, kerneltest.Ours)
			return nil
		}},
		{"address removed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			l := changed
			l.Addresses = nil
			k.PutLink(l, kerneltest.Ours)
			return nil
		}},
		{"address added", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			l := changed
			l.Addresses = append([]netip.Prefix{netip.MustParsePrefix("10.0.0.9/32")}, l.Addresses...)
			k.PutLink(l, kerneltest.Ours)
			return nil
		}},
		{"mtu and sysctl changed", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			l := changed
			l.MTU, l.Sysctls = 9000, map[string]string{"ipv6/accept_ra": "1"}
			k.PutLink(l, kerneltest.Ours)
			return nil
		}},
		{"uplink set down and up takes the direct route silently", func(k *kerneltest.Kernel, _ *kerneltest.Tables) error {
			k.SetUp("eth0", false)
			k.SetUp("eth0", true)
			return nil
		}},
		{"table removed", func(_ *kerneltest.Kernel, tables *kerneltest.Tables) error {
			tables.DeleteTable("twill-masquerade")
			return nil
		}},
		{"table changed", func(_ *kerneltest.Kernel, tables *kerneltest.Tables) error {
			tables.PutTable(kernel.Table{Name: "twill-masquerade"})
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state := driftState()
			r := driftRig(t, state)
			want, wantTables := r.kernel.Dump(), r.tables.Dump()
			if err := tt.drift(r.kernel, r.tables); err != nil {
				t.Fatal(err)
			}
			if r.due == 0 {
				t.Error("the drift was not noticed")
			}
			result, err := r.Sync(t.Context(), state)
			if err != nil {
				t.Fatal(err)
			}
			r.checkDump(want)
			if diff := cmp.Diff(wantTables, r.tables.Dump()); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			if !result.InSync {
				r.sync(state) // late news of a link, to be read once more
			}
		})
	}
}

func TestForeignChurnIsNoNews(t *testing.T) {
	r := driftRig(t, driftState())
	r.kernel.PutLink(kernel.Link{Name: "docker0", Up: true}, kerneltest.Foreign)
	for _, err := range []error{
		r.kernel.PutRoute(route("203.0.113.0/24", "192.0.2.9", "eth0"), kerneltest.Foreign),
		r.kernel.PutNeighbor(kernel.Neighbor{Link: "eth0", IP: node(9), MAC: mac(9)}, kerneltest.Foreign),
		r.kernel.PutNeighbor(kernel.Neighbor{Link: "eth0", IP: node(8), MAC: mac(8)}, kerneltest.Ours),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.kernel.DeleteRoute(route("203.0.113.0/24", "192.0.2.9", "eth0").Key())
	r.kernel.DeleteNeighbor(kernel.NeighborKey{Link: "eth0", IP: node(9)})
	r.kernel.DeleteLink("docker0")
	r.tables.PutTable(kernel.Table{Name: "docker"})
	if r.due != 0 {
		t.Errorf("foreign changes made %d Syncs due", r.due)
	}
}

func TestLostEventsAndResyncReadEverythingOnce(t *testing.T) {
	tests := []struct {
		name string
		mark func(*rig)
	}{
		{"resync", func(r *rig) { r.Resync() }},
		{"lost notifications", func(r *rig) {
			if !r.Observe(kernel.Event{Lost: true}) {
				r.t.Error("no Sync was due")
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state := driftState()
			r := driftRig(t, state)
			r.kernel.Observe(nil) // what happens now is not notified
			r.kernel.DeleteRoute(peer(1).Routes[0].Key())
			want := r.kernel.Counts()
			tt.mark(r)
			r.sync(state)
			for kind := kernel.KindLink; kind <= kernel.KindRoute; kind++ {
				want.Dumps[kind]++
			}
			want.Changes[kernel.KindRoute]++
			r.sync(state)
			if diff := cmp.Diff(want, r.kernel.Counts()); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// More notifications may come during a dump than are kept: then it is repeated.
func TestFloodDuringDump(t *testing.T) {
	state := overlay(1)
	r := newRig(t)
	r.sync(state)
	dumps := r.kernel.Counts().Dumps[kernel.KindRoute]
	flooded := false
	r.kernel.OnStep(func() {
		if flooded || r.kernel.Counts().Dumps[kernel.KindRoute] == dumps {
			return
		}
		flooded = true
		for range 10_000 {
			r.Observe(kernel.Event{Kind: kernel.KindRoute, Route: peer(1).Routes[0]})
		}
	})
	r.Resync()
	result, err := r.Sync(t.Context(), state)
	if err != nil || result.InSync {
		t.Errorf("error %v, in sync %v: not all that was said is known", err, result.InSync)
	}
	r.sync(state)
	if n := r.kernel.Counts().Dumps[kernel.KindRoute] - dumps; n != 2 {
		t.Errorf("%d dumps, want 2", n)
	}
}

// Somebody takes something away in the middle of a Sync, at every step there is. Nothing may be lost, and the Syncs
// that are due must come to an end.
func TestChangesDuringSyncAreNotLost(t *testing.T) {
	state := overlay(1, 2)
	want := fresh(t, state)
	tests := []struct {
		name string
		hand func(*kerneltest.Kernel)
	}{
		{"fdb", func(k *kerneltest.Kernel) { k.DeleteFDB(peer(1).FDB[0].Key()) }},
		{"neighbor", func(k *kerneltest.Kernel) { k.DeleteNeighbor(peer(1).Neighbors[0].Key()) }},
		{"route", func(k *kerneltest.Kernel) { k.DeleteRoute(peer(1).Routes[0].Key()) }},
		{"link", func(k *kerneltest.Kernel) { k.DeleteLink(overlayLink) }},
		{"down and up", func(k *kerneltest.Kernel) { k.SetUp(overlayLink, false); k.SetUp(overlayLink, true) }},
	}
	for _, tt := range tests {
		for _, start := range []string{"empty", "restarted"} {
			t.Run(tt.name+", "+start, func(t *testing.T) {
				for at := 1; ; at++ {
					r := newRig(t)
					if start == "restarted" {
						r.sync(state)
						r.restart()
					}
					if err := syncDisturbedAt(r, state, at, tt.hand); err != nil {
						t.Fatalf("step %d: %v", at, err)
					}
					r.checkDump(want)
					if t.Failed() {
						t.Fatalf("the change after step %d was lost", at)
					}
					if !r.disturbed {
						return
					}
				}
			})
		}
	}
}

// syncDisturbedAt calls Sync as long as one is due; hand strikes at one step of the first.
func syncDisturbedAt(r *rig, state kernel.State, at int, hand func(*kerneltest.Kernel)) error {
	steps := 0
	r.kernel.OnStep(func() {
		if steps++; steps == at {
			r.disturbed = true
			hand(r.kernel)
		}
	})
	var err error
	for range 4 {
		r.due = 0
		result, syncErr := r.Sync(context.Background(), state)
		if err = syncErr; err == nil && r.due == 0 && result.InSync {
			return nil
		}
	}
	if err == nil {
		err = errors.New("the Syncs do not come to an end")
	}
	return err
}

// The handle of the tables trusts the notifications that it got, so a Resync must reach it too; once each.
func TestResyncReachesTheTables(t *testing.T) {
	state := driftState()
	r := driftRig(t, state)
	before := r.tables.Resyncs()
	r.sync(state)
	if got := r.tables.Resyncs() - before; got != 0 {
		t.Errorf("a Sync without a Resync made the tables' handle read everything %d times", got)
	}
	r.Resync()
	r.sync(state)
	r.sync(state)
	if got := r.tables.Resyncs() - before; got != 1 {
		t.Errorf("one Resync reached the tables' handle %d times", got)
	}
}

func TestIncompleteStateRemovesNothing(t *testing.T) {
	r := newRig(t)
	before, after := churn()
	r.sync(before)
	r.restart()

	partial := after
	partial.KeepStale = true
	if result, err := r.Sync(t.Context(), partial); err != nil || result.InSync {
		t.Errorf("in sync %v, error %v: there is more than was desired", result.InSync, err)
	}
	for _, subnet := range []string{"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24"} {
		if !strings.Contains(r.kernel.Dump(), "route "+subnet) {
			t.Errorf("no route to %s in\n%s", subnet, r.kernel.Dump())
		}
	}

	r.sync(after)
	r.checkDump(fresh(t, after))
}
