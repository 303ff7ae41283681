package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// cluster is some objects of every sort.
func cluster() []any {
	return []any{
		svc("web", 1), slice("web", "10.244.1.5", "10.244.2.5", "10.244.2.6"),
		svc("dns", 2, udp), slice("dns", "10.244.1.7"),
		svc("sticky", 3, func(s *store.Service) { s.AffinityTimeout = time.Hour }), slice("sticky", "10.244.1.8", "10.244.2.8"),
		svc("empty", 4),
		svc("six", 5), slice("six", "fd00:244:0:1::5", "fd00:244:0:2::5"),
		svc("outside", 6, func(s *store.Service) {
			s.Type, s.ExternalLocal, s.Ports[0].NodePort = store.ServiceNodePort, true, 30080
		}), slice("outside", "10.244.1.9", "10.244.2.9"),
	}
}

// fresh returns what a kernel holds that was empty when the objects were told.
func fresh(t *testing.T, objects ...any) *kerneltest.Tables {
	t.Helper()
	r := newRig(t, kerneltest.NewTables())
	r.begin(objects...)
	r.stop()
	return r.tables
}

func TestChangeIsWritten(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	before := r.tables.ElementChanges()
	r.tell(slice("web", "10.244.1.5", "10.244.2.5"))
	r.settled()
	if n := r.tables.ElementChanges() - before; n > 8 {
		t.Errorf("one endpoint that goes costs %d elements", n)
	}
	if strings.Contains(r.dump(), "10.244.2.6") || !strings.Contains(r.dump(), "10.244.2.5") {
		t.Error(r.dump())
	}
	if n := r.figure("kubeproxy_sync_full_proxy_rules_duration_seconds"); n != 1 {
		t.Errorf("%v full syncs", n)
	}
	if n := r.figure("kubeproxy_sync_partial_proxy_rules_duration_seconds"); n != 1 {
		t.Errorf("%v partial syncs", n)
	}
	if n := r.figure("twill_proxy_services"); n != 6 {
		t.Errorf("%v Services", n)
	}
}

// A restarted daemon adopts what is there, writes nothing, and removes nothing before it knows what there should be.
func TestRestart(t *testing.T) {
	tables := fresh(t, cluster()...)
	want := dump(tables)
	changes, writes := tables.ElementChanges(), tables.Writes()
	r := newRig(t, tables)
	r.begin(cluster()...)
	r.settled()
	if n, w := tables.ElementChanges()-changes, tables.Writes()-writes; n != 0 || w != 0 {
		t.Errorf("%d elements and %d tables were written", n, w)
	}
	if diff := cmp.Diff(want, r.dump()); diff != "" {
		t.Error(diff)
	}
}

func TestLeftoversStayUntilTheFirstReset(t *testing.T) {
	tables := fresh(t, cluster()...)
	before, writes := dump(tables), tables.Writes()
	r := newRig(t, tables)
	r.start()
	r.proxy.SetHost(testHost)
	r.proxy.Observe(kernel.Event{Lost: true})
	r.tell(gone("web"), svc("new", 9)) // no reset
	r.until("the loop to have taken it", func() bool { r.proxy.mu.Lock(); defer r.proxy.mu.Unlock(); return r.proxy.in.changes == nil })
	r.proxy.state.Lock() // a sync that had begun has ended
	now := dump(tables)
	r.proxy.state.Unlock()
	if diff := cmp.Diff(before, now); diff != "" || tables.Writes() != writes {
		t.Errorf("written before the first reset: %s", diff)
	}
	if r.proxy.Ready() == nil {
		t.Error("ready without having read anything")
	}
	c := changes(cluster()[:2]...)
	c.Reset = true
	r.source.Tell(r.t, c)
	r.until("the first sync", func() bool { return r.proxy.Ready() == nil })
	if diff := cmp.Diff(meaning(dump(fresh(t, cluster()[:2]...))), meaning(r.dump())); diff != "" {
		t.Error(diff)
	}
}

func TestSilentSourceChangesNothing(t *testing.T) {
	tables := fresh(t, cluster()...)
	writes, changes := tables.Writes(), tables.ElementChanges()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, tables)
		r.config.BindHardFail = false
		done := make(chan struct{})
		go func() { defer close(done); r.proxy.run(t.Context()) }()
		r.proxy.SetHost(testHost)
		time.Sleep(time.Hour) // of a clock that does not take time
		if !r.proxy.health.Healthy() {
			t.Error("a proxy that waits for its source is not healthy")
		}
		if r.proxy.Ready() == nil {
			t.Error("it is ready")
		}
	})
	if tables.Writes() != writes || tables.ElementChanges() != changes {
		t.Error("something was written")
	}
}

// Every call of the kernel fails once, at the start and later.
func TestFailNext(t *testing.T) {
	broken := errors.New("broken")
	fail := map[string]func(*kerneltest.Tables){
		"SyncTables":     func(k *kerneltest.Tables) { k.FailNext(broken) },
		"ChangeElements": func(k *kerneltest.Tables) { k.FailNextChange(broken) },
		"Entries":        func(k *kerneltest.Tables) { k.FailNextEntries(broken) },
		"ListElements":   func(k *kerneltest.Tables) { k.FailNextList(broken) },
		"disturbed":      func(k *kerneltest.Tables) { k.DisturbNextEntries() },
		"several": func(k *kerneltest.Tables) {
			for range 3 {
				k.FailNext(broken)
				k.FailNextChange(broken)
				k.FailNextEntries(broken)
			}
		},
	}
	for name, f := range fail {
		t.Run(name, func(t *testing.T) {
			want := meaning(dump(fresh(t, append(cluster(), svc("late", 20), slice("late", "10.244.2.20"))...)))
			r := newRig(t, kerneltest.NewTables())
			f(r.tables)
			r.begin(cluster()...)
			if name != "disturbed" && r.figure("kubeproxy_sync_proxy_rules_nftables_sync_failures_total") == 0 {
				t.Error("the failure is not counted")
			}
			f(r.tables)
			r.tell(svc("late", 20), slice("late", "10.244.2.20"))
			r.settled()
			if diff := cmp.Diff(want, meaning(r.dump())); diff != "" {
				t.Error(diff)
			}
			if p := r.figure("kubeproxy_sync_proxy_rules_service_changes_pending") + r.figure("kubeproxy_sync_proxy_rules_endpoint_changes_pending"); p != 0 {
				t.Errorf("%v changes are pending", p)
			}
		})
	}
}

// While the kernel refuses, nothing that follows a change happens, the error is told once, and health says so in time.
func TestKernelThatRefuses(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.proxy.health.timeout = 50 * time.Millisecond
	for range 4 {
		r.tables.FailNextChange(errors.New("out of memory"))
	}
	for range 3 { // the comparison that follows lists first
		r.tables.FailNextEntries(errors.New("out of memory"))
	}
	r.tell(slice("dns", "10.244.2.7"))
	r.until("health to tell", func() bool { return !r.proxy.health.Healthy() })
	if r.figure("kubeproxy_sync_proxy_rules_endpoint_changes_pending") != 1 {
		t.Error("the change is not pending")
	}
	if have := r.flows.list(); len(have) > 0 {
		t.Errorf("flushed although the kernel still sends to it: %v", have)
	}
	r.settled()
	if !r.proxy.health.Healthy() {
		t.Error("it is not healthy again")
	}
	r.until("the flush", func() bool { return len(r.flows.list()) > 0 })
	if diff := cmp.Diff([]string{"protocol 17 to 10.96.0.2:80 answered by 10.244.1.7:8080"}, r.flows.list()); diff != "" {
		t.Error(diff)
	}
	failures := r.figure("kubeproxy_sync_proxy_rules_nftables_sync_failures_total")
	if n := r.log.Count("could not be programmed"); n == 0 || n > 4 || failures < 5 {
		t.Errorf("%d lines for %v failures", n, failures)
	}
	r.until("the end to be told", func() bool { return r.log.Count("programmed again") == 1 })
}

func TestDrift(t *testing.T) {
	endpoints := kernel.SetID{Family: kernel.FamilyIPv4, Table: dnat.TableName, Set: "endpoints"}
	first := func(k *kerneltest.Tables) (e kernel.Entry) {
		_ = k.Entries(t.Context(), endpoints, func() {}, func(x kernel.Entry) {
			if e.Key == "" || x.Key < e.Key {
				e = x
			}
		})
		return e
	}
	behind := map[string]func(*kerneltest.Tables){
		"table deleted":   func(k *kerneltest.Tables) { k.DeleteTable(dnat.TableName) },
		"element deleted": func(k *kerneltest.Tables) { k.DeleteEntries(endpoints, first(k).Key) },
		"element changed": func(k *kerneltest.Tables) {
			e := first(k)
			e.Value = strings.Repeat("x", len(e.Value))
			k.PutEntries(endpoints, e)
		},
		"element added": func(k *kerneltest.Tables) {
			e := first(k)
			e.Key = strings.Repeat("y", len(e.Key))
			k.PutEntries(endpoints, e)
		},
	}
	for name, change := range behind {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/told=%v", name, told), func(t *testing.T) {
				r := newRig(t, kerneltest.NewTables())
				r.begin(cluster()...)
				want := r.dump()
				if told {
					r.tables.Observe(r.proxy.Observe)
				}
				change(r.tables)
				if !told {
					r.proxy.Observe(kernel.Event{Lost: true})
				}
				began := time.Now()
				r.until("the repair", func() bool { return r.dump() == want })
				r.settled()
				t.Logf("repaired after %v", time.Since(began))
				if r.figure("twill_proxy_drift_total") == 0 {
					t.Error("the drift is not counted")
				}
			})
		}
	}
}

// A drift that nobody tells meets a change: the kernel refuses it, and everything is compared.
func TestDriftFoundByAChange(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.tables.DeleteTable(dnat.TableName)
	r.tell(slice("web", "10.244.1.5"))
	r.settled()
	all := cluster()
	all[1] = slice("web", "10.244.1.5")
	if diff := cmp.Diff(meaning(dump(fresh(t, all...))), meaning(r.dump())); diff != "" {
		t.Error(diff)
	}
}

func TestForeignTablesAreLeftAlone(t *testing.T) {
	tables := kerneltest.NewTables()
	tables.PutTable(kernel.Table{Name: "filter", Family: kernel.FamilyIPv4, Chains: []kernel.Chain{{Name: "mine"}}})
	r := newRig(t, tables)
	r.begin(cluster()...)
	r.tables.Observe(r.proxy.Observe)
	tables.PutTable(kernel.Table{Name: "filter", Family: kernel.FamilyIPv4, Chains: []kernel.Chain{{Name: "other"}}})
	if !strings.Contains(tables.Dump(), "chain other") {
		t.Error(tables.Dump())
	}
	if r.figure("twill_proxy_drift_total") != 0 {
		t.Error("somebody else's table counts as drift")
	}
}

// The same facts reversed, split, together, twice and with others in between end in the same kernel.
func TestOrderOfChangesMakesNoDifference(t *testing.T) {
	final := append(cluster(), svc("late", 20), slice("late", "10.244.2.20", "10.244.1.20"))
	want := meaning(dump(fresh(t, final...)))
	random := rand.New(rand.NewPCG(4, 2))
	for name, run := range map[string]func(r *rig){
		"one by one": func(r *rig) {
			r.begin()
			for _, o := range final {
				r.tell(o)
			}
		},
		"shuffled": func(r *rig) {
			r.begin()
			shuffled := slices.Clone(final)
			random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			for _, o := range shuffled {
				r.tell(o)
				r.tell(o)
			}
		},
		"with what goes again": func(r *rig) {
			r.begin(svc("web", 40), svc("old", 20), slice("old", "10.244.2.99"), slice("web", "10.244.1.99"))
			r.settled()
			r.tell(gone("old"), gone("old/1"))
			r.tell(final...)
		},
		"reset twice": func(r *rig) {
			r.begin(svc("old", 20), slice("old", "10.244.2.99"))
			for range 2 {
				c := changes(final...)
				c.Reset = true
				r.source.Tell(r.t, c)
			}
		},
		"one object a piece while the kernel fails": func(r *rig) {
			r.begin()
			for i, o := range final {
				if i%4 == 0 {
					r.tables.FailNextChange(syscall.EINTR)
				}
				r.tell(o)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, kerneltest.NewTables())
			run(r)
			r.settled()
			if diff := cmp.Diff(want, meaning(r.dump())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostChanges(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	if !strings.Contains(r.dump(), "192.0.2.1 . tcp . 30080") {
		t.Error(r.dump())
	}
	h := testHost
	h.Addrs, h.NodePortAddrs = daemontest.Addrs("192.0.2.2"), daemontest.Addrs("192.0.2.2", "198.51.100.2")
	r.proxy.SetHost(h)
	r.settled()
	for text, want := range map[string]bool{"192.0.2.1 . tcp": false, "192.0.2.2 . tcp . 30080": true, "198.51.100.2 . tcp . 30080": true} {
		if strings.Contains(r.dump(), text) != want {
			t.Errorf("%s: want %v\n%s", text, want, r.dump())
		}
	}
	before := r.tables.ElementChanges()
	h.PodNetworks = daemontest.Prefixes("10.200.0.0/16", "10.244.0.0/16")
	r.proxy.SetHost(h)
	r.settled()
	if n := r.tables.ElementChanges() - before; n != 0 {
		t.Errorf("other networks change %d elements of Services", n)
	}
	if !strings.Contains(r.tables.Dump(), "set pods: 2 elements") {
		t.Error(r.tables.Dump())
	}
}

func TestMinSyncPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, kerneltest.NewTables())
		r.config.MinSyncPeriod = time.Minute
		go r.proxy.run(t.Context())
		r.proxy.SetHost(testHost)
		c := changes(cluster()...)
		c.Reset = true
		r.proxy.changed(c)
		synctest.Wait()
		if r.proxy.Ready() != nil {
			time.Sleep(time.Minute) // the host came alone, and the source a moment after
			synctest.Wait()
		}
		before := r.tables.ElementChanges()
		r.proxy.changed(changes(svc("late", 20)))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if r.tables.ElementChanges() != before {
			t.Error("written before its time")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.tables.ElementChanges() == before {
			t.Error("not written in time")
		}
	})
}

// What others change without a notification is found by the slow comparison.
func TestSyncPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, kerneltest.NewTables())
		go r.proxy.run(t.Context())
		r.proxy.SetHost(testHost)
		c := changes(cluster()...)
		c.Reset = true
		r.proxy.changed(c)
		synctest.Wait()
		want := r.dump()
		r.tables.DeleteTable(dnat.TableName)
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if r.dump() != "" {
			t.Error("something was written before its time")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(want, r.dump()); diff != "" {
			t.Error(diff)
		}
	})
}

// watched is a kernel that tells of each table that is written, and of each change of elements.
type watched struct {
	*kerneltest.Tables
	table  func(kernel.Table)
	change func(kernel.TableFamily)
}

func (w watched) SyncTables(ctx context.Context, want []kernel.Table, gone []string) error {
	for _, t := range want {
		w.table(t)
	}
	return w.Tables.SyncTables(ctx, want, gone)
}

func (w watched) ChangeElements(ctx context.Context, of kernel.TableFamily, table string, changes []kernel.SetChange) error {
	w.change(of)
	return w.Tables.ChangeElements(ctx, of, table, changes)
}

// drops reports whether a table drops packets to addresses of 10.96.0.0/16 that no Service has.
func drops(table kernel.Table) bool {
	for _, s := range table.Sets {
		if strings.HasPrefix(s.Comment, "where nobody has an address") {
			return len(s.Elements) > 0
		}
	}
	return false
}

// While a table is filled for the first time, what it does not know passes on, perhaps to another proxy's table; afterwards, and in one that is
// taken over, it is dropped.
func TestFirstFillDropsNothing(t *testing.T) {
	begin := func(r *rig) {
		r.start()
		r.proxy.SetHost(testHost)
		c := changes(cluster()...)
		c.Reset, c.Networks = true, daemontest.Prefixes("10.96.0.0/16")
		r.source.Tell(r.t, c)
		r.until("the first sync", func() bool { return r.proxy.Ready() == nil })
		r.settled()
	}
	for _, name := range []string{"at once", "after a failure"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, kerneltest.NewTables())
			dropped := false
			r.proxy.opts.Kernel = watched{r.tables,
				func(table kernel.Table) {
					if table.Family == kernel.FamilyIPv4 {
						dropped = drops(table)
					}
				},
				func(of kernel.TableFamily) {
					if of == kernel.FamilyIPv4 && dropped {
						t.Error("packets to Services are dropped before these are known")
					}
				}}
			if name == "after a failure" {
				r.tables.FailNextChange(errors.New("broken"))
			}
			begin(r)
			if !dropped {
				t.Error("packets to addresses that no Service has are not dropped in the end")
			}
			r.stop()
			again := newRig(t, r.tables)
			again.proxy.opts.Kernel = watched{r.tables, func(table kernel.Table) {
				if table.Family == kernel.FamilyIPv4 && !drops(table) {
					t.Error("a restart lets pass what was dropped")
				}
			}, func(kernel.TableFamily) {}}
			begin(again)
		})
	}
}
