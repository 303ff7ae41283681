package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// thing is a small object: its key is the part of the text before the colon.
type thing string

func (v thing) Key() string { key, _, _ := strings.Cut(string(v), ":"); return key }

func newThings() *tracker[string, thing] { return newTracker(thing.Key, same[thing]) }

// view is a tracker's state as text: "key want have", pending ones with a star.
func view(t *tracker[string, thing]) []string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[key]
		text := func(v *thing) string {
			if v == nil {
				return "-"
			}
			return string(*v)
		}
		line := text(e.want) + " " + text(e.have)
		if e.want != e.have {
			line += " *"
		}
		lines = append(lines, line)
	}
	return lines
}

func TestTrackerViews(t *testing.T) {
	a, b := &kernel.Fragment{Owner: "a"}, &kernel.Fragment{Owner: "b"}
	one, two, other := thing("x:1"), thing("x:2"), thing("x:1")
	tests := []struct {
		name string
		do   func(t *tracker[string, thing])
		want []string
	}{
		{"claimed", func(t *tracker[string, thing]) { t.claim(a, &one) }, []string{"x:1 - *"}},
		{"claimed and released", func(t *tracker[string, thing]) { t.claim(a, &one); t.release(a, &one) }, nil},
		{"there, unclaimed", func(t *tracker[string, thing]) { t.adopt([]thing{"x:1"}) }, []string{"- x:1 *"}},
		{"there as claimed", func(t *tracker[string, thing]) { t.claim(a, &one); t.adopt([]thing{"x:1"}) }, []string{"x:1 x:1"}},
		{"there, then claimed", func(t *tracker[string, thing]) { t.adopt([]thing{"x:1"}); t.claim(a, &one) }, []string{"x:1 x:1"}},
		{"there otherwise", func(t *tracker[string, thing]) { t.adopt([]thing{"x:9"}); t.claim(a, &one) }, []string{"x:1 x:9 *"}},
		{"gone again", func(t *tracker[string, thing]) { t.claim(a, &one); t.adopt([]thing{"x:1"}); t.adopt(nil) }, []string{"x:1 - *"}},
		{"gone and unclaimed", func(t *tracker[string, thing]) { t.adopt([]thing{"x:1"}); t.adopt(nil) }, nil},
		{"smaller owner first", func(t *tracker[string, thing]) { t.claim(a, &one); t.claim(b, &two) }, []string{"x:1 - *"}},
		{"smaller owner last", func(t *tracker[string, thing]) { t.claim(b, &two); t.claim(a, &one) }, []string{"x:1 - *"}},
		{"winner leaves", func(t *tracker[string, thing]) { t.claim(a, &one); t.claim(b, &two); t.release(a, &one) }, []string{"x:2 - *"}},
		{"loser leaves", func(t *tracker[string, thing]) { t.claim(a, &one); t.claim(b, &two); t.release(b, &two) }, []string{"x:1 - *"}},
		{"handover of an equal value", func(t *tracker[string, thing]) {
			t.claim(a, &one)
			t.adopt([]thing{"x:1"})
			t.release(a, &one)
			t.claim(b, &other)
		}, []string{"x:1 x:1"}},
		{"named twice by one fragment", func(t *tracker[string, thing]) { t.claim(a, &one); t.claim(a, &two) }, []string{"x:1 - *"}},
		{"named twice and released twice", func(t *tracker[string, thing]) {
			t.claim(a, &one)
			t.claim(a, &two)
			t.release(a, &one)
			t.release(a, &two)
		}, nil},
		{"deletion assumed and taken back", func(t *tracker[string, thing]) {
			t.adopt([]thing{"x:1"})
			e := t.entries["x"]
			before := e.have
			t.assume(e, nil)
			t.assume(e, before)
		}, []string{"- x:1 *"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := newThings()
			tt.do(tr)
			if diff := cmp.Diff(tt.want, view(tr)); diff != "" {
				t.Errorf("tracker (-want +got):\n%s", diff)
			}
			checkTracker(t, tr)
		})
	}
}

// checkTracker compares what the tracker keeps for speed with what it stands for.
func checkTracker(t *testing.T, tr *tracker[string, thing]) {
	t.Helper()
	desired := 0
	pending := map[*entry[thing]]bool{}
	for key, e := range tr.entries {
		if e.want == nil && e.have == nil {
			t.Errorf("%s: an entry that is neither desired nor actual", key)
		}
		if e.want != nil {
			desired++
		}
		if e.want != e.have {
			pending[e] = true
		}
		if e.want != nil && e.have != nil && e.want != e.have && *e.want == *e.have {
			t.Errorf("%s: equal values are stored twice", key)
		}
	}
	if tr.desired != desired {
		t.Errorf("%d desired, counted %d", desired, tr.desired)
	}
	for _, e := range tr.pending() {
		if !pending[e] {
			t.Errorf("queued twice, or not pending: %+v", e)
		}
		delete(pending, e)
	}
	if len(pending) > 0 {
		t.Errorf("%d pending entries are not queued", len(pending))
	}
	for key, rivals := range tr.rivals {
		e := tr.entries[key]
		for _, r := range rivals {
			if r.owner.Owner < e.owner.Owner {
				t.Errorf("%s: %s won against %s", key, e.owner.Owner, r.owner.Owner)
			}
		}
	}
}

// Random claims, releases, dumps and writes keep the tracker's promises.
func TestTrackerKeepsItsPromises(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		tr := newThings()
		claims := map[*kernel.Fragment]*thing{}
		some := func() thing { return thing(fmt.Sprintf("%d:%d", rnd.IntN(4), rnd.IntN(3))) }
		for i := range 200 {
			switch rnd.IntN(4) {
			case 0:
				f, v := &kernel.Fragment{Owner: fmt.Sprint(rnd.IntN(10), i)}, some()
				claims[f] = &v
				tr.claim(f, &v)
			case 1:
				for f, v := range claims {
					tr.release(f, v)
					delete(claims, f)
					break
				}
			case 2:
				tr.adopt([]thing{some(), some()})
			case 3:
				for _, e := range tr.pending() {
					tr.assume(e, e.want)
				}
			}
			checkTracker(t, tr)
		}
	}
}

func TestTrackerAgrees(t *testing.T) {
	tr := newThings()
	tr.adopt([]thing{"x:1"})
	tests := []struct {
		v       thing
		deleted bool
		want    bool
	}{
		{"x:1", false, true}, {"x:2", false, false}, {"x:1", true, false},
		{"y:1", false, false}, {"y:1", true, true},
	}
	for _, tt := range tests {
		if got := tr.agrees(tt.v, tt.deleted); got != tt.want {
			t.Errorf("agrees(%s, deleted %v) = %v", tt.v, tt.deleted, got)
		}
	}
}

func TestCompareFragments(t *testing.T) {
	a, b, c := &kernel.Fragment{Owner: "a"}, &kernel.Fragment{Owner: "b"}, &kernel.Fragment{Owner: "c"}
	b2 := &kernel.Fragment{Owner: "b"}
	type list = []*kernel.Fragment
	tests := []struct {
		name           string
		old, new       list
		removed, added list
		sorted         bool
	}{
		{"first", nil, list{a, b}, nil, list{a, b}, true},
		{"same", list{a, b}, list{a, b}, nil, nil, true},
		{"none", list{a, b}, nil, list{a, b}, nil, true},
		{"one comes in the middle", list{a, c}, list{a, b, c}, nil, list{b}, true},
		{"one goes in the middle", list{a, b, c}, list{a, c}, list{b}, nil, true},
		{"one changes", list{a, b, c}, list{a, b2, c}, list{b}, list{b2}, true},
		{"unsorted", nil, list{b, a}, nil, nil, false},
		{"unsorted at the end of what is the same", list{a, c}, list{a, c, b}, nil, nil, false},
		{"unsorted before what is the same", list{b, c}, list{b, a, c}, nil, nil, false},
		{"twice", list{a}, list{a, a}, nil, nil, false},
		{"twice, and in both", list{a, b}, list{a, a, b}, nil, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, sorted := compareFragments(tt.old, tt.new)
			if sorted != tt.sorted || !slices.Equal(got.removed, tt.removed) || !slices.Equal(got.added, tt.added) {
				t.Errorf("removed %v, added %v, sorted %v", got.removed, got.added, sorted)
			}
		})
	}
}
