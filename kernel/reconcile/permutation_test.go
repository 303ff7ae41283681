package reconcile_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/reconcile"
)

// world is a random cluster: each source holds a fragment or none. Sources share subnets and MACs now and then.
type world struct {
	rnd     *rand.Rand
	sources map[int]*kernel.Fragment
}

const numSources = 12

// step changes a few sources.
func (w *world) step() {
	for range w.rnd.IntN(5) {
		i := w.rnd.IntN(numSources)
		switch w.rnd.IntN(4) {
		case 0:
			delete(w.sources, i)
		case 1: // the same content in a new fragment
			if f := w.sources[i]; f != nil {
				again := *f
				w.sources[i] = &again
			}
		default:
			w.sources[i] = w.fragment(i)
		}
	}
}

func (w *world) fragment(i int) *kernel.Fragment {
	j := i
	if w.rnd.IntN(4) == 0 {
		j = w.rnd.IntN(numSources) // the subnet of another one: a handover, or a conflict
	}
	f := peerOn(overlayLink, j, mac(w.rnd.IntN(2*numSources)), node(w.rnd.IntN(3)))
	f.Owner = owner(i)
	return f
}

// state lists the fragments in some order, some of them twice.
func (w *world) state() kernel.State {
	s := overlay()
	for _, i := range w.rnd.Perm(numSources) {
		if f := w.sources[i]; f != nil {
			s.Fragments = append(s.Fragments, f)
		}
	}
	switch n := len(s.Fragments); {
	case w.rnd.IntN(2) == 0:
		slices.SortFunc(s.Fragments, func(a, b *kernel.Fragment) int { return strings.Compare(a.Owner, b.Owner) })
	case n > 0:
		s.Fragments = append(s.Fragments, s.Fragments[w.rnd.IntN(n)])
	}
	return s
}

// disturb makes something fail or takes something away behind the reconciler's back.
func (w *world) disturb(k *kerneltest.Kernel) {
	i := w.rnd.IntN(numSources)
	switch w.rnd.IntN(8) {
	case 0:
		k.FailNext(kerneltest.Op(w.rnd.IntN(int(kerneltest.ApplyRoutes)+1)), errRefused)
	case 1:
		k.FailObject(fmt.Sprintf("fdb %s dev %s", mac(i), overlayLink), errRefused)
	case 2:
		k.FailObject(fmt.Sprintf("neighbor %s dev %s", base(i), overlayLink), errRefused)
	case 3:
		k.FailObject("route "+subnet(i).String(), errRefused)
	case 4:
		k.DeleteRoute(kernel.RouteKey{Dst: subnet(i)})
	case 5:
		k.SetUp(overlayLink, w.rnd.IntN(2) == 0)
	case 6:
		k.DeleteLink(overlayLink)
	}
}

// However the same facts arrive, split over Syncs, in any order, twice, with failures and drift in between, the
// kernel ends up with what a fresh one would hold, and at no step does a route go to where nothing is.
func TestRandomHistoriesConverge(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w := &world{rnd: rand.New(rand.NewPCG(seed, 1)), sources: map[int]*kernel.Fragment{}}
			r := newRig(t)
			for range 12 {
				w.step()
				w.disturb(r.kernel)
				if _, err := r.Sync(t.Context(), w.state()); err == nil {
					r.checkDump(fresh(t, w.state()))
				}
				r.checkOrder()
				if w.rnd.IntN(6) == 0 {
					r.restart()
				}
			}
			settle(r, w)
			r.checkDump(fresh(t, w.state()))
		})
	}
}

// settle uses up what is still to fail.
func settle(r *rig, w *world) {
	r.t.Helper()
	var err error
	for range 50 {
		var result reconcile.Result
		result, err = r.Sync(r.t.Context(), w.state())
		r.checkOrder()
		if err == nil && result.InSync {
			return
		}
	}
	r.t.Fatalf("it does not settle: %v", err)
}

func TestConflictsGoToTheSmallestOwner(t *testing.T) {
	shared := mac(7)
	a, b, c := peerOn(overlayLink, 1, shared, node(1)), peerOn(overlayLink, 2, shared, node(2)), peerOn(overlayLink, 3, shared, node(3))
	state := func(fs ...*kernel.Fragment) kernel.State {
		return kernel.State{Links: []kernel.Link{vxlan()}, Fragments: fs}
	}
	conflict := func(winner, loser *kernel.Fragment) reconcile.Conflict {
		return reconcile.Conflict{Kind: kernel.KindFDB, Object: winner.FDB[0].String(), Winner: winner.Owner, Loser: loser.Owner}
	}
	r := newRig(t)
	for _, order := range [][]*kernel.Fragment{{b, a}, {a, b}, {c, b, a}, {b, c, a}, {a, b, c}} {
		result := r.sync(state(order...))
		want := []reconcile.Conflict{conflict(a, b)}
		if len(order) == 3 {
			want = append(want, conflict(a, c))
		}
		if diff := cmp.Diff(want, result.Conflicts); diff != "" {
			t.Errorf("conflicts (-want +got):\n%s", diff)
		}
		r.checkDump(fresh(t, state(order...)))
	}
	if diff := cmp.Diff([]reconcile.Conflict{conflict(b, c)}, r.sync(state(c, b)).Conflicts); diff != "" {
		t.Errorf("conflicts after the winner left (-want +got):\n%s", diff)
	}
	if got := r.sync(state(c)).Conflicts; len(got) != 0 {
		t.Errorf("conflicts of one fragment: %v", got)
	}
}

func TestEqualClaimsAreNoConflict(t *testing.T) {
	r := newRig(t)
	twin := peer(1)
	twin.Owner = "twin"
	state := overlay(1)
	state.Fragments = append(state.Fragments, twin)
	if result := r.sync(state); len(result.Conflicts) != 0 {
		t.Errorf("conflicts: %v", result.Conflicts)
	}
	before := r.kernel.Counts().Changes
	state.Fragments = state.Fragments[1:]
	r.sync(state) // the twin takes over what is there
	if diff := cmp.Diff(before, r.kernel.Counts().Changes); diff != "" {
		t.Errorf("messages (-before +after):\n%s", diff)
	}
}

func TestOneOwnerWithTwoFragmentsIsAnError(t *testing.T) {
	a, b := peer(1), peerOn(overlayLink, 1, mac(9), node(9))
	var dumps []string
	for _, order := range [][]*kernel.Fragment{{a, b}, {b, a}} {
		r := newRig(t)
		state := kernel.State{Links: []kernel.Link{vxlan()}, Fragments: order}
		r.syncFails(state, "more than one fragment", owner(1))
		dumps = append(dumps, r.kernel.Dump())
	}
	if diff := cmp.Diff(dumps[0], dumps[1]); diff != "" {
		t.Errorf("the order of the fragments matters:\n%s", diff)
	}
}

// Observe and Resync are called from other goroutines than Sync; run with -race.
func TestConcurrentCalls(t *testing.T) {
	k := kerneltest.New()
	r := reconcile.New(k, kerneltest.NewTables(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	events := make(chan kernel.Event, 1024)
	k.Observe(func(ev kernel.Event) { events <- ev })
	var wg sync.WaitGroup
	wg.Go(func() {
		for ev := range events {
			r.Observe(ev)
		}
	})
	var syncs sync.WaitGroup
	for g := range 3 {
		syncs.Go(func() {
			for i := range 50 {
				if _, err := r.Sync(t.Context(), overlay(g, 10+i, 7)); err != nil {
					t.Error(err)
				}
				r.Resync()
				k.DeleteRoute(peer(7).Routes[0].Key())
			}
		})
	}
	syncs.Wait()
	state := overlay(1, 2, 3)
	if _, err := r.Sync(t.Context(), state); err != nil {
		t.Error(err)
	}
	k.Observe(nil)
	close(events)
	wg.Wait()
	if _, err := r.Sync(t.Context(), state); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(fresh(t, state), k.Dump()); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
}
