package kernel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type memoRig struct {
	memo     Memo[string, *string]
	rendered []string // by the last call
	invalid  map[string]bool
}

func (r *memoRig) render(sources ...string) []*string {
	r.rendered = nil
	return r.memo.Render(sources, Renderer[string, *string]{
		Compare: func(a, b string) int { return strings.Compare(key(a), key(b)) },
		Owner:   func(s string) string { return reversed(key(s)) },
		Render:  func(s string) *string { r.rendered = append(r.rendered, s); return &s },
		Valid:   func(s string, _ *string) bool { return !r.invalid[s] },
	})
}

// key is what a source is known by; what follows the dot is its content.
func key(s string) string { k, _, _ := strings.Cut(s, "."); return k }

// reversed makes owners sort otherwise than sources.
func reversed(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = 255 - b[i]
	}
	return string(b)
}

func values(pointers []*string) []string {
	var all []string
	for _, p := range pointers {
		all = append(all, *p)
	}
	return all
}

func TestMemoRendersWhatItDoesNotHold(t *testing.T) {
	rig := memoRig{invalid: map[string]bool{}}
	steps := []struct {
		name     string
		sources  []string
		rendered []string
		want     []string
	}{
		{"at first", []string{"a", "c"}, []string{"a", "c"}, []string{"c", "a"}},
		{"two more", []string{"a", "b", "c", "d"}, []string{"d", "b"}, []string{"d", "c", "b", "a"}},
		{"the same", []string{"a", "b", "c", "d"}, nil, []string{"d", "c", "b", "a"}},
		{"unsorted", []string{"d", "b", "a", "c"}, nil, []string{"d", "c", "b", "a"}},
		{"twice", []string{"d", "d", "b", "a", "c"}, nil, []string{"d", "c", "b", "a"}},
		{"two go", []string{"b", "c"}, nil, []string{"c", "b"}},
		{"one comes back", []string{"a", "b", "c"}, []string{"a"}, []string{"c", "b", "a"}},
		{"one is replaced", []string{"a", "b.2", "c"}, []string{"b.2"}, []string{"c", "b.2", "a"}},
		{"one is replaced, one goes, one comes", []string{"b.3", "c", "e"}, []string{"b.3", "e"}, []string{"e", "c", "b.3"}},
		{"none is left", nil, nil, nil},
		{"all over", []string{"x", "z"}, []string{"x", "z"}, []string{"z", "x"}},
	}
	last := map[string]*string{}
	for _, step := range steps {
		got := rig.render(step.sources...)
		slices.Sort(rig.rendered)
		slices.Sort(step.rendered)
		if diff := cmp.Diff(step.rendered, rig.rendered); diff != "" {
			t.Errorf("%s: rendered %s", step.name, diff)
		}
		if diff := cmp.Diff(step.want, values(got)); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
		now := map[string]*string{}
		for _, p := range got {
			now[*p] = p
			if last[*p] != nil && last[*p] != p {
				t.Errorf("%s: %s did not change, but is another pointer", step.name, *p)
			}
		}
		last = now
		if n := len(rig.memo.byOwner); n != len(got) || len(rig.memo.bySource) != n {
			t.Errorf("%s: %d sources are remembered, want %d", step.name, n, len(got))
		}
	}
}

// Whatever comes after whatever, the result is that of a Memo without memory.
func TestMemoDoesNotShow(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	rig := memoRig{invalid: map[string]bool{}}
	for step := range 2000 {
		var sources []string
		for k := range 12 {
			if rng.IntN(3) > 0 {
				sources = append(sources, fmt.Sprintf("k%02d.%d", k, rng.IntN(2)))
			}
		}
		if rng.IntN(4) == 0 {
			rng.Shuffle(len(sources), func(i, j int) { sources[i], sources[j] = sources[j], sources[i] })
		}
		fresh := memoRig{invalid: map[string]bool{}}
		if diff := cmp.Diff(values(fresh.render(sources...)), values(rig.render(sources...))); diff != "" {
			t.Fatalf("step %d, %v: %s", step, sources, diff)
		}
	}
}

func TestMemoRendersAgainWhatIsNotValid(t *testing.T) {
	rig := memoRig{invalid: map[string]bool{}}
	first := slices.Clone(rig.render("a", "b"))
	rig.invalid["b"] = true
	second := rig.render("a", "b")
	if second[1] != first[1] || second[0] == first[0] {
		t.Errorf("before %p %p, after %p %p", first[0], first[1], second[0], second[1])
	}
}

func BenchmarkMemoOneChangeAmong20000(b *testing.B) {
	var sources []*int
	for i := range 20_000 {
		sources = append(sources, &i)
	}
	r := Renderer[*int, *int]{
		Compare: func(a, b *int) int { return *a - *b },
		Owner:   func(p *int) string { return fmt.Sprint(*p) },
		Render:  func(p *int) *int { return p },
	}
	var m Memo[*int, *int]
	m.Render(sources, r)
	b.ReportAllocs()
	for i := range b.N {
		changed := *sources[i%len(sources)]
		sources[i%len(sources)] = &changed
		m.Render(sources, r)
	}
}
