package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/reconcile"
)

// churn is a change that has work in every phase: a peer goes, one comes, one moves, one changes its MAC.
func churn() (before, after kernel.State) {
	before = overlay(1, 2, 3)
	before.Links = append(before.Links, kernel.Link{Name: "flannel.9", Up: true, VXLAN: &kernel.VXLAN{VNI: 9}})
	before.Tables = []kernel.Table{{Name: "twill-old"}}
	after = overlay(2, 3, 4)
	after.Fragments[0] = peerOn(overlayLink, 2, mac(2), node(22))
	after.Fragments[1] = peerOn(overlayLink, 3, mac(33), node(3))
	after.Links[0].MTU = 1400
	after.Tables = []kernel.Table{{Name: "twill-new"}}
	return before, after
}

func TestEveryCallMayFailOnce(t *testing.T) {
	ops := map[string]kerneltest.Op{
		"dump links": kerneltest.DumpLinks, "dump fdb": kerneltest.DumpFDB,
		"dump neighbors": kerneltest.DumpNeighbors, "dump routes": kerneltest.DumpRoutes,
		"apply links": kerneltest.ApplyLinks, "apply fdb": kerneltest.ApplyFDB,
		"apply neighbors": kerneltest.ApplyNeighbors, "apply routes": kerneltest.ApplyRoutes,
	}
	for name, op := range ops {
		t.Run(name+" at start", func(t *testing.T) {
			r := newRig(t)
			state := overlay(1, 2)
			r.kernel.FailNext(op, errRefused)
			r.syncFails(state, errRefused.Error())
			r.sync(state)
			r.checkDump(fresh(t, state))
		})
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s under way, restart %v", name, restart), func(t *testing.T) {
				r := newRig(t)
				before, after := churn()
				r.sync(before)
				if restart {
					r.restart()
				}
				r.kernel.FailNext(op, errRefused)
				r.syncFails(after, errRefused.Error())
				r.sync(after)
				r.checkDump(fresh(t, after))
			})
		}
	}
}

func TestTablesMayFail(t *testing.T) {
	r := newRig(t)
	before, after := churn()
	r.sync(before)
	r.tables.FailNext(errRefused)
	result := r.syncFails(after, "sync tables", errRefused.Error())
	if c := result.Kinds[kernel.KindTable]; c.Programmed != 0 || c.Failures != 1 {
		t.Errorf("tables: %+v", c)
	}
	r.sync(after)
	if diff := cmp.Diff("table twill-new\n", r.tables.Dump()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

func TestAbsentTablesAreRemovedAfterRestart(t *testing.T) {
	r := newRig(t)
	r.tables.PutTable(kernel.Table{Name: "twill-old"})
	r.sync(kernel.State{AbsentTables: []string{"twill-old", "twill-never"}})
	if got := r.tables.Dump(); got != "" {
		t.Errorf("tables are left:\n%s", got)
	}
}

func TestNoRouteWithoutWhatItRestsOn(t *testing.T) {
	tests := []struct{ name, object string }{
		{"fdb entry refused", "fdb 02:00:00:00:00:01 dev flannel.1"},
		{"neighbor refused", "neighbor 10.0.1.0 dev flannel.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			state := overlay(1, 2)
			r.kernel.FailObject(tt.object, errRefused)
			result := r.syncFails(state, tt.object, owner(1), errRefused.Error())
			if c := result.Kinds[kernel.KindRoute]; c != (reconcile.Counts{Desired: 2, Programmed: 1, Changes: 1, Held: 1}) {
				t.Errorf("routes: %+v; want the one of the sound peer alone", c)
			}
			r.sync(state)
			r.checkDump(fresh(t, state))
		})
	}
}

// What the kernel still uses stays, when it could not be told to use something else.
func TestNothingInUseIsRemoved(t *testing.T) {
	moved := overlay(1)
	moved.Fragments[0] = peerOn(overlayLink, 1, mac(11), node(1))
	other := overlay(1)
	other.Links[0].Name = "flannel.2"
	other.Links[0].VXLAN = &kernel.VXLAN{VNI: 2}
	other.Fragments[0] = peerOn("flannel.2", 1, mac(1), node(1))
	tests := []struct {
		name   string
		to     kernel.State
		refuse string
		stays  []string
	}{
		{"route cannot be removed", overlay(), "route 10.0.1.0/24",
			[]string{"route 10.0.1.0/24 via 10.0.1.0 dev flannel.1", "neighbor 10.0.1.0 dev flannel.1", "fdb 02:00:00:00:00:01 dev flannel.1"}},
		{"neighbor cannot be removed", overlay(), "neighbor 10.0.1.0 dev flannel.1",
			[]string{"neighbor 10.0.1.0 dev flannel.1", "fdb 02:00:00:00:00:01 dev flannel.1"}},
		{"new fdb entry is refused", moved, "fdb 02:00:00:00:00:0b dev flannel.1",
			[]string{"route 10.0.1.0/24 via", "neighbor 10.0.1.0 dev flannel.1 lladdr 02:00:00:00:00:01", "fdb 02:00:00:00:00:01 dev flannel.1"}},
		{"neighbor cannot be changed", moved, "neighbor 10.0.1.0 dev flannel.1",
			[]string{"route 10.0.1.0/24 via", "neighbor 10.0.1.0 dev flannel.1 lladdr 02:00:00:00:00:01", "fdb 02:00:00:00:00:01 dev flannel.1"}},
		{"route cannot move to another device", other, "route 10.0.1.0/24",
			[]string{"link flannel.1", "route 10.0.1.0/24 via 10.0.1.0 dev flannel.1", "neighbor 10.0.1.0 dev flannel.1", "fdb 02:00:00:00:00:01 dev flannel.1"}},
		{"other device cannot be made", other, "link flannel.2",
			[]string{"link flannel.1", "route 10.0.1.0/24 via 10.0.1.0 dev flannel.1", "neighbor 10.0.1.0 dev flannel.1", "fdb 02:00:00:00:00:01 dev flannel.1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.sync(overlay(1))
			r.kernel.FailObject(tt.refuse, errRefused)
			r.syncFails(tt.to, errRefused.Error())
			for _, object := range tt.stays {
				if !strings.Contains(r.kernel.Dump(), object) {
					t.Errorf("%q is gone:\n%s", object, r.kernel.Dump())
				}
			}
			r.sync(tt.to)
			r.checkDump(fresh(t, tt.to))
		})
	}
}

func TestStaleDumpRemovesNothing(t *testing.T) {
	for _, op := range []kerneltest.Op{kerneltest.DumpLinks, kerneltest.DumpFDB, kerneltest.DumpNeighbors, kerneltest.DumpRoutes} {
		r := newRig(t)
		before, after := churn()
		r.sync(before)
		r.restart()
		r.kernel.FailNext(op, kernel.ErrStale)
		_, err := r.Sync(t.Context(), kernel.State{Links: before.Links[:1], AbsentTables: []string{"twill-old"}})
		if !errors.Is(err, kernel.ErrStale) {
			t.Fatalf("error %v, want ErrStale", err)
		}
		r.checkDump(fresh(t, before))
		if got := r.tables.Dump(); got != "table twill-old\n" {
			t.Errorf("tables: %s", got)
		}
		after.AbsentTables = []string{"twill-old"}
		r.sync(after)
		r.checkDump(fresh(t, after))
	}
}

func TestBrokenLinkIsOneError(t *testing.T) {
	r := newRig(t)
	r.kernel.PutLink(uplink(), kerneltest.Foreign)
	state := overlay(1, 2, 3)
	state.Fragments = append(state.Fragments, &kernel.Fragment{Owner: "direct", Routes: []kernel.Route{route("10.7.0.0/24", "192.0.2.7", "eth0")}})
	r.kernel.FailObject("link flannel.1", errRefused)
	result := r.syncFails(state, "set link flannel.1: refused")
	want := [kernel.NumKinds]reconcile.Counts{
		kernel.KindLink:     {Desired: 1, Failures: 1},
		kernel.KindFDB:      {Desired: 3, Held: 3},
		kernel.KindNeighbor: {Desired: 3, Held: 3},
		kernel.KindRoute:    {Desired: 4, Programmed: 1, Changes: 1, Held: 3},
	}
	if diff := cmp.Diff(want, result.Kinds); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	r.sync(state)
}

func TestErrorIsBounded(t *testing.T) {
	r := newRig(t)
	var peers []int
	for i := range 3000 {
		peers = append(peers, i+1)
	}
	state := overlay(peers...)
	r.sync(overlay())
	r.kernel.FailNext(kerneltest.ApplyFDB, errRefused)
	result := r.syncFails(state, "more failures", errRefused.Error())
	if n := result.Kinds[kernel.KindFDB].Failures; n == 0 || n == len(peers) {
		t.Errorf("%d failures; the first batch alone should have failed", n)
	}
	_, err := r.Sync(t.Context(), state)
	if err != nil {
		t.Error(err)
	}
}

func TestCancelledSyncIsTakenUpAgain(t *testing.T) {
	want := fresh(t, overlay(1, 2))
	for at := 1; at < 20; at++ {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		r.kernel.OnStep(func() {
			if steps++; steps == at {
				cancel()
			}
		})
		_, err := r.Sync(ctx, overlay(1, 2))
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("step %d: error %v", at, err)
		}
		r.checkOrder()
		r.sync(overlay(1, 2))
		r.checkDump(want)
		cancel()
	}
}

// A device that was found under a desired name and could not be taken over stays its owner's.
func TestLinkThatWasNeverOursIsNotStale(t *testing.T) {
	r := newRig(t)
	r.kernel.PutLink(vxlan(), kerneltest.Foreign)
	before := r.kernel.Dump()
	r.kernel.FailObject("link flannel.1", errRefused)
	r.syncFails(overlay(), errRefused.Error())
	r.sync(kernel.State{})
	r.checkDump(before)
}
