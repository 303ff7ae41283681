package dnat

import (
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// look observes one Service in the kernel, as a person's question does.
func (r *rig) look(name store.ObjectName) (ServiceState, []Difference) {
	r.t.Helper()
	one, o := r.table.Snapshot(name), &Observed{}
	for _, k := range one.Keys() {
		found, err := r.handle.Lookup(r.t.Context(), kernel.SetID{Family: r.family.config.Family, Table: TableName, Set: k.Set}, k.Keys)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range found {
			o.Add(k.Set, e)
		}
	}
	if one.HasAffinity() {
		id := kernel.SetID{Family: r.family.config.Family, Table: TableName, Set: AffinitySet}
		if err := r.handle.EntryStates(r.t.Context(), id, func() { o.Clear(AffinitySet) }, func(e kernel.EntryState) { o.Add(AffinitySet, e) }); err != nil {
			r.t.Fatal(err)
		}
	}
	state, ok := one.State(name, o)
	if !ok {
		r.t.Fatalf("no Service %s", name)
	}
	return state, one.Compare(o, nil)
}

// TestHitsInTheKernel counts connections, in a table that an earlier version made, which did not count.
func TestHitsInTheKernel(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			r.serve()
			it := svc("it", stickyFrontend(f, time.Hour, fourServers...))
			r.set(it)
			skeleton := r.table.Skeleton()
			skeleton.Sets = slices.Clone(skeleton.Sets)
			skeleton.Sets[0].Counted = false
			if err := r.handle.SyncTables(t.Context(), []kernel.Table{skeleton}, nil); err != nil {
				t.Fatal(err)
			}
			if state, _ := r.look(it.Name); state.Frontends[0].Plan != "random-4-offcluster-sticky-3600" {
				t.Fatalf("before the upgrade: %+v", state)
			}
			if writes := r.start(it); writes > 0 {
				t.Errorf("the upgrade has written %d elements again", writes)
			}
			client := f.addr("10.1.7.1")
			var at string
			for range 3 {
				at = r.clients.reach(client, f.at("10.96.0.1:80"))
			}
			state, differences := r.look(it.Name)
			fe := state.Frontends[0]
			if fe.Hits != 3 || fe.Endpoints != 4 || len(fe.Slots) != 4 || len(differences) > 0 {
				t.Errorf("after 3 connections: %+v, differences %v", fe, differences)
			}
			if len(fe.Clients) != 1 || fe.Clients[0].Client != client || fe.Clients[0].Endpoint.String() != at || fe.Clients[0].Left < 3500 || fe.Clients[0].Left > 3600 {
				t.Errorf("remembered are %+v, want %s at %s", fe.Clients, client, at)
			}
		})
	}
}
