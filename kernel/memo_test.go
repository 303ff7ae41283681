package kernel

import (
	"slices"
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
		Owner:  func(s string) string { return s },
		Render: func(s string) *string { r.rendered = append(r.rendered, s); return &s },
		Valid:  func(s string, _ *string) bool { return !r.invalid[s] },
	})
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
	first := rig.render("c", "a")
	if diff := cmp.Diff([]string{"a", "c"}, values(first)); diff != "" {
		t.Error(diff)
	}
	second := rig.render("d", "c", "b", "a")
	if diff := cmp.Diff([]string{"d", "b"}, rig.rendered); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, values(second)); diff != "" {
		t.Error(diff)
	}
	if second[0] != first[0] || second[2] != first[1] {
		t.Error("a source that did not change yields another pointer")
	}
	if third := rig.render("b", "c"); !slices.Equal(third, second[1:3]) {
		t.Errorf("%v", values(third))
	}
	rig.render("a", "b", "c")
	if diff := cmp.Diff([]string{"a"}, rig.rendered); diff != "" {
		t.Errorf("a source that was gone in between: %s", diff)
	}
}

func TestMemoRendersAgainWhatIsNotValid(t *testing.T) {
	rig := memoRig{invalid: map[string]bool{}}
	first := rig.render("a", "b")
	rig.invalid["b"] = true
	second := rig.render("a", "b")
	if second[0] != first[0] || second[1] == first[1] {
		t.Errorf("before %p %p, after %p %p", first[0], first[1], second[0], second[1])
	}
}
