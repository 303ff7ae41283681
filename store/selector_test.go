package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func in(key string, values ...string) Requirement    { return Requirement{key, SelectorIn, values} }
func notIn(key string, values ...string) Requirement { return Requirement{key, SelectorNotIn, values} }
func exists(key string) Requirement                  { return Requirement{key, SelectorExists, nil} }
func doesNotExist(key string) Requirement            { return Requirement{key, SelectorDoesNotExist, nil} }

func TestSelectorMatches(t *testing.T) {
	web := map[string]string{"app": "web", "flag": ""}
	tests := []struct {
		name     string
		selector Selector
		labels   map[string]string
		want     bool
	}{
		{"the zero Selector", Selector{}, web, true},
		{"the zero Selector, no labels", Selector{}, nil, true},
		{"no requirement", NewSelector(), web, true},
		{"In: its value", NewSelector(in("app", "web")), web, true},
		{"In: one of its values", NewSelector(in("app", "db", "web")), web, true},
		{"In: another value", NewSelector(in("app", "db")), web, false},
		{"In: a part of the value", NewSelector(in("app", "we")), web, false},
		{"In: the key is absent", NewSelector(in("tier", "web")), web, false},
		{"In: no labels", NewSelector(in("app", "web")), nil, false},
		{"In: empty value is there", NewSelector(in("flag", "")), web, true},
		{"In: empty value, the key is absent", NewSelector(in("tier", "")), web, false},
		{"In: no values", NewSelector(in("app")), web, false},
		{"NotIn: its value", NewSelector(notIn("app", "web")), web, false},
		{"NotIn: another value", NewSelector(notIn("app", "db")), web, true},
		{"NotIn: the key is absent", NewSelector(notIn("tier", "web")), web, true},
		{"NotIn: no labels", NewSelector(notIn("tier", "web")), nil, true},
		{"NotIn: empty value is there", NewSelector(notIn("flag", "")), web, false},
		{"NotIn: empty value, the key is absent", NewSelector(notIn("tier", "")), web, true},
		{"Exists: it does", NewSelector(exists("app")), web, true},
		{"Exists: with the empty value", NewSelector(exists("flag")), web, true},
		{"Exists: the key is absent", NewSelector(exists("tier")), web, false},
		{"DoesNotExist: it does", NewSelector(doesNotExist("app")), web, false},
		{"DoesNotExist: with the empty value", NewSelector(doesNotExist("flag")), web, false},
		{"DoesNotExist: the key is absent", NewSelector(doesNotExist("tier")), web, true},
		{"DoesNotExist: no labels", NewSelector(doesNotExist("tier")), nil, true},
		{"all are met", NewSelector(in("app", "web"), exists("flag"), doesNotExist("tier")), web, true},
		{"one is not met", NewSelector(in("app", "web"), exists("flag"), exists("tier")), web, false},
		{"two of one key", NewSelector(in("app", "web", "db"), notIn("app", "web")), web, false},
		{"keys have cases", NewSelector(exists("App")), web, false},
		{"an operator that is none", NewSelector(Requirement{"app", "Like", []string{"web"}}), web, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.selector.Matches(tt.labels); got != tt.want {
				t.Errorf("%q matches %v: %v, want %v", tt.selector, tt.labels, got, tt.want)
			}
		})
	}
}

func TestSelectorString(t *testing.T) {
	tests := []struct {
		selector Selector
		want     string
	}{
		{Selector{}, ""},
		{NewSelector(), ""},
		{NewSelector(in("app", "web")), "app=web"},
		{NewSelector(in("app", "web", "db", "web")), "app in (db,web)"},
		{NewSelector(in("app")), "app in ()"},
		{NewSelector(in("app", "")), "app="},
		{NewSelector(notIn("app", "web")), "app notin (web)"},
		{NewSelector(exists("b"), doesNotExist("a")), "!a, b"},
		{NewSelector(exists("b"), in("a", "1"), exists("b")), "a=1, b"},
		{NewSelector(Requirement{"app", "Like", []string{"web"}}), "app Like (web)"},
	}
	for _, tt := range tests {
		if got := tt.selector.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
		if everything := tt.want == ""; tt.selector.Everything() != everything {
			t.Errorf("%q is everything: %v, want %v", tt.want, tt.selector.Everything(), everything)
		}
	}
}

func TestSelectorKeepsNothingOfItsInput(t *testing.T) {
	values := []string{"web", "db"}
	requirements := []Requirement{in("app", values...), exists("z"), exists("a")}
	before := slices.Clone(requirements)
	s := NewSelector(requirements...)
	if diff := cmp.Diff(before, requirements); diff != "" {
		t.Errorf("the requirements were changed: %s", diff)
	}
	values[0], requirements[1] = "other", exists("other")
	if want := "a, app in (db,web), z"; s.String() != want || !s.Matches(map[string]string{"a": "", "app": "web", "z": ""}) {
		t.Errorf("%q, want %q", s, want)
	}
}

// Requirements in any order, with values in any order and repeated, are the same selector, and equal ones match the same.
func TestSelectorsAreCanonical(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	requirement := func() Requirement {
		r := Requirement{Key: fmt.Sprint("k", random.IntN(3))}
		r.Operator = []SelectorOperator{SelectorIn, SelectorNotIn, SelectorExists, SelectorDoesNotExist}[random.IntN(4)]
		if r.Operator == SelectorIn || r.Operator == SelectorNotIn {
			for range 1 + random.IntN(3) {
				r.Values = append(r.Values, []string{"", "a", "b"}[random.IntN(3)])
			}
		}
		return r
	}
	byText := map[string]Selector{}
	for range 2000 {
		var all []Requirement
		for range random.IntN(4) {
			all = append(all, requirement())
		}
		s := NewSelector(all...)
		for i, r := range all {
			all[i].Values = append(slices.Clone(r.Values), r.Values...)
			random.Shuffle(len(all[i].Values), func(a, b int) { v := all[i].Values; v[a], v[b] = v[b], v[a] })
		}
		all = append(all, all...)
		random.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
		if other := NewSelector(all...); !s.Equal(other) {
			t.Fatalf("%q and %q are of the same requirements", s, other)
		}
		same, ok := byText[s.String()]
		if !ok {
			byText[s.String()] = s
			same = s
		}
		labels := map[string]string{}
		for i := range 3 {
			if random.IntN(2) == 0 {
				labels[fmt.Sprint("k", i)] = []string{"", "a", "b"}[random.IntN(3)]
			}
		}
		if s.Matches(labels) != same.Matches(labels) {
			t.Fatalf("two selectors %q differ about %v", s, labels)
		}
	}
}
