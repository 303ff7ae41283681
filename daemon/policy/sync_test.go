package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// cluster is some objects of every sort: web is here, and its clients are elsewhere.
func cluster() []any {
	return []any{
		shop(), allow("web", "role=web", "role=client"),
		pod(thisNode, "web", "10.1.1.2 fd00:1:1::2", "role=web"), pod(thisNode, "other", "10.1.1.3", "role=other"),
		pod("node-b", "client", "10.1.2.2 fd00:1:2::2", "role=client"), pod("node-b", "stranger", "10.1.2.3", "role=stranger"),
	}
}

// begun is a rig with the cluster, of which web and other are attached.
func begun(t testing.TB, tables *kerneltest.Tables, change ...func(*Options)) *rig {
	t.Helper()
	r := newRig(t, tables, change...)
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), record("other", "10.1.1.3"))
	r.begin(cluster()...)
	r.settled()
	return r
}

// fresh returns what a kernel holds that was empty when the objects were told.
func fresh(t *testing.T, r *rig, objects ...any) string {
	t.Helper()
	other := newRig(t, kerneltest.NewTables())
	other.host.put(r.host.records...)
	other.begin(objects...)
	other.settled()
	other.stop()
	return dump(other.tables)
}

func TestChangeIsWritten(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	elements, writes := r.tables.ElementChanges(), r.tables.Writes()
	r.tell(pod("node-b", "stranger", "10.1.2.3", "role=client"))
	if n, w := r.tables.ElementChanges()-elements, r.tables.Writes()-writes; n != 1 || w != 0 {
		t.Errorf("a label of a pod elsewhere costs %d elements and %d tables", n, w)
	}
	if n := r.figure("twill_policy_full_sync_seconds"); n != 1 {
		t.Errorf("%v full syncs", n)
	}
	if diff := cmp.Diff(fresh(t, r, append(cluster(), pod("node-b", "stranger", "10.1.2.3", "role=client"))...), dump(r.tables)); diff != "" {
		t.Error(diff)
	}
	if n := r.figure("twill_policy_policies"); n != 1 {
		t.Errorf("%v policies", n)
	}
}

// A change of a pod elsewhere lists nothing, neither in the kernel nor of the records.
func TestChangeElsewhereListsNothing(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	r.host.mu.Lock()
	looks := r.host.looks
	r.host.mu.Unlock()
	r.tables.FailNextEntries(errors.New("listed"))
	r.tables.FailNextList(errors.New("listed"))
	for i := range 20 {
		r.tell(pod("node-b", "client", fmt.Sprintf("10.1.2.%d", 20+i), "role=client"))
	}
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	if r.host.looks != looks || strings.Contains(r.log.String(), "listed") {
		t.Errorf("%d looks at records; %s", r.host.looks-looks, r.log)
	}
}

// A restarted daemon writes nothing, and removes nothing before it knows what there should be.
func TestRestart(t *testing.T) {
	first := begun(t, kerneltest.NewTables())
	first.stop()
	want, elements, writes := dump(first.tables), first.tables.ElementChanges(), first.tables.Writes()
	r := newRig(t, first.tables)
	r.host.put(first.host.records...)
	r.start()
	r.SetNodePods(nodePods)
	r.Observe(kernel.Event{Lost: true})
	r.source.Tell(r.t, changes(gone{allow("web", "role=web", "role=client")})) // no reset
	r.until("the loop to have taken it", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.in.changes == nil })
	r.state.Lock() // a sync that had begun has ended
	now := dump(first.tables)
	r.state.Unlock()
	if diff := cmp.Diff(want, now); diff != "" || r.Ready() == nil {
		t.Errorf("before the first reset: ready is %v, written %s", r.Ready(), diff)
	}
	c := changes(cluster()...)
	c.Reset = true
	r.source.Tell(r.t, c)
	r.until("the first sync", func() bool { return r.Ready() == nil })
	r.settled()
	if n, w := first.tables.ElementChanges()-elements, first.tables.Writes()-writes; n != 0 || w != 0 {
		t.Errorf("%d elements and %d tables were written", n, w)
	}
}

// Every call of the kernel fails once, at the start and later.
func TestFailNext(t *testing.T) {
	broken := errors.New("broken")
	fail := map[string]func(*rig){
		"SyncTables":     func(r *rig) { r.tables.FailNext(broken) },
		"ChangeElements": func(r *rig) { r.tables.FailNextChange(broken) },
		"Entries":        func(r *rig) { r.tables.FailNextEntries(broken); r.tables.FailNextChange(broken) },
		"ListElements":   func(r *rig) { r.tables.FailNextList(broken); r.tables.FailNextChange(broken) },
		"ENOENT":         func(r *rig) { r.tables.FailNextChange(syscall.ENOENT) },
		"Records":        func(r *rig) { r.host.fail = append(r.host.fail, broken); r.ObserveRecords() },
		"several": func(r *rig) {
			for range 2 {
				r.tables.FailNext(broken)
				r.tables.FailNextChange(broken)
				r.tables.FailNextEntries(broken)
			}
		},
	}
	late := []any{pod("node-b", "late", "10.1.2.9", "role=late"), allow("late", "role=web", "role=late")}
	for name, f := range fail {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, kerneltest.NewTables())
			r.host.put(record("web", "10.1.1.2"), record("other", "10.1.1.3"))
			f(r)
			r.begin(cluster()...)
			r.until("what has begun to work again", func() bool { return r.progress.State().Err == nil })
			if name != "Records" {
				f(r)
			}
			r.tell(late...)
			if diff := cmp.Diff(fresh(t, r, append(cluster(), late...)...), dump(r.tables)); diff != "" {
				t.Error(diff)
			}
			if name != "Records" && r.figure("twill_policy_sync_failures_total") == 0 {
				t.Error("the failure is not counted")
			}
			if r.host.free > 0 {
				t.Errorf("%d looks at records without a hold on plugins", r.host.free)
			}
		})
	}
}

// While the kernel refuses, the error is told once, and the node is not ready after a while.
func TestKernelRefuses(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	r.host.mu.Lock()
	passes := r.host.passes
	r.host.mu.Unlock()
	for range 4 {
		r.tables.FailNextEntries(errors.New("no room"))
	}
	r.tables.FailNextChange(errors.New("no room"))
	r.source.Tell(r.t, changes(pod("node-b", "stranger", "10.1.2.3", "role=client")))
	r.until("the error", func() bool { return strings.Contains(r.log.String(), "could not be programmed") })
	r.settled()
	r.until("the end of it", func() bool { return strings.Contains(r.log.String(), "programmed again") })
	if n := strings.Count(r.log.String(), "could not be programmed"); n != 2 { // change elements, then list set
		t.Errorf("told %d times: %s", n, r.log)
	}
	r.until("connections to be looked at", func() bool { r.host.mu.Lock(); defer r.host.mu.Unlock(); return r.host.passes > passes })
}

func TestLate(t *testing.T) {
	now := time.Now()
	e := Enforcer{progress: syncloop.NewProgress(func() time.Time { return now })}
	e.progress.Queue()
	e.progress.Synced(now.Add(time.Second), nil)
	e.progress.Queue()
	now = now.Add(patience)
	if err := e.Ready(); err != nil {
		t.Errorf("late too soon: %v", err)
	}
	now = now.Add(time.Second)
	if err := e.Ready(); !errors.Is(err, errLate) {
		t.Errorf("of a change that waits for ever, Ready says %v", err)
	}
}

// What others change is mended.
func TestDrift(t *testing.T) {
	for name, f := range map[string]func(*kerneltest.Tables){
		"table deleted": func(k *kerneltest.Tables) { k.DeleteTable(gate.TableName) },
		"elements removed": func(k *kerneltest.Tables) {
			key := string(kernel.AppendAddr(nil, daemontest.Addrs("10.1.2.2")[0]))
			k.DeleteEntries(kernel.SetID{Family: gate.Family, Table: gate.TableName, Set: gate.SetPods4}, key)
		},
		"emptied":  func(k *kerneltest.Tables) { k.PutTable(gate.Closed(gate.Config{NodePods: nodePods})) },
		"no sets":  func(k *kerneltest.Tables) { k.PutTable(kernel.Table{Family: gate.Family, Name: gate.TableName}) },
		"one less": func(k *kerneltest.Tables) { k.PutTable(without(gate.SetPairs)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := begun(t, kerneltest.NewTables())
			r.tables.Observe(r.Observe)
			want := dump(r.tables)
			f(r.tables)
			r.until("the table to be as it was", func() bool { return cmp.Diff(want, dump(r.tables)) == "" })
			r.tables.Observe(nil)
		})
	}
}

// without is a closed table that lacks a set.
func without(set string) kernel.Table {
	t := gate.Closed(gate.Config{NodePods: nodePods})
	for i, s := range t.Sets {
		if s.Name == set {
			t.Sets = append(t.Sets[:i], t.Sets[i+1:]...)
			break
		}
	}
	t.Chains = nil
	return t
}

// Everything is compared now and then, and nothing is written then.
func TestResync(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	elements, writes := r.tables.ElementChanges(), r.tables.Writes()
	r.put(func(in *inbox) { in.compare = true })
	r.until("the comparison", func() bool { return r.figure("twill_policy_full_sync_seconds") == 2 })
	if n, w := r.tables.ElementChanges()-elements, r.tables.Writes()-writes; n != 0 || w != 0 {
		t.Errorf("%d elements and %d tables were written", n, w)
	}
}

// The same events in any order, and together or apart, end in the same kernel.
func TestPermutedEvents(t *testing.T) {
	base := newRig(t, kerneltest.NewTables())
	base.host.put(record("web", "10.1.1.2 fd00:1:1::2"), record("other", "10.1.1.3"))
	second := allow("second", "role=other", "role=stranger")
	want := fresh(t, base, append(cluster(), second)...)
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t, kerneltest.NewTables())
		r.begin()
		events := []func(){
			func() { r.host.put(base.host.records...); r.ObserveRecords() },
			func() { r.Observe(kernel.Event{Lost: true}) },
			func() { r.source.Tell(r.t, changes(pod("node-b", "gone", "10.1.2.77", "role=client"))) },
		}
		for _, o := range append(cluster(), second) {
			events = append(events, func() { r.source.Tell(r.t, changes(o)) })
		}
		random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		for _, f := range events {
			f()
			if random.IntN(2) == 0 {
				r.settled()
			}
		}
		r.tell(gone{pod("node-b", "gone", "")})
		if diff := cmp.Diff(want, dump(r.tables)); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
		r.stop()
	}
}

// When the node gets other networks, the table is made for them, of all that the source tells anew.
func TestOtherNetworks(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	r.SetNodePods(daemontest.Prefixes("10.1.9.0/24"))
	r.until("the source to be asked again", func() bool {
		r.state.Lock()
		defer r.state.Unlock()
		return len(r.nodePods) == 1 && !r.complete
	})
	// The watch before may still hear it; what that tells is dropped, and the next one begins with the same.
	r.until("the new networks", func() bool {
		c := changes(cluster()...)
		c.Reset = true
		r.source.Tell(r.t, c)
		return strings.Contains(dump(r.tables), "10.1.9.0/24")
	})
}

// A source that ends is an error; one that is cancelled is not.
func TestSourceEnds(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.opts.Source = failing{errors.New("broken")}
	if err := New(r.opts).Run(t.Context()); err == nil || err.Error() != "watch policies: broken" {
		t.Errorf("error %v", err)
	}
}

type failing struct{ err error }

func (f failing) WatchPolicies(context.Context, func(store.PolicyChanges)) error { return f.err }
