package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

// write has everything written that may be, as long as a request takes no time, and returns the counts that were written.
func (e *events) write(now time.Time) (counts []int) {
	for {
		s, _ := e.next(now)
		if s == nil {
			return counts
		}
		s.written, s.due = s.count, now.Add(seriesSpacing)
		e.left--
		counts = append(counts, s.count)
	}
}

func TestEventsSeries(t *testing.T) {
	e := newEvents("node-a")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	one, other := store.Event{Reason: "One", Message: "x"}, store.Event{Reason: "One", Message: "y"}
	add := func(events ...store.Event) {
		for _, event := range events {
			e.add(event, now)
		}
	}
	expect := func(what string, want ...int) {
		t.Helper()
		if got := e.write(now); !slices.Equal(got, want) {
			t.Errorf("%s: %v was written, not %v", what, got, want)
		}
	}
	add(one, one, one, other)
	expect("at first", 3, 1)
	add(one)
	expect("at once")
	if _, again := e.next(now); !again.Equal(now.Add(seriesSpacing)) {
		t.Errorf("it is written at %v", again)
	}
	now = now.Add(seriesSpacing)
	expect("a minute later", 4)
	now = now.Add(seriesEnd)
	add(one)
	expect("another series", 1)
	if _, again := e.next(now); !again.IsZero() {
		t.Errorf("there is nothing to write, but at %v", again)
	}
	add(other)
	now = now.Add(seriesStale)
	expect("old news")
	if len(e.order) != 0 || len(e.series) != 0 {
		t.Errorf("%d, %d are left", len(e.order), len(e.series))
	}
}

func TestEventsBounds(t *testing.T) {
	e := newEvents("node-a")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	dropped := 0
	for i := range seriesMost + 10 {
		if _, drop := e.add(store.Event{Reason: "Many", Message: fmt.Sprint(i)}, now); drop {
			dropped++
		}
	}
	if dropped != 10 {
		t.Errorf("%d were dropped", dropped)
	}
	if n := len(e.write(now)); n != eventBurst {
		t.Errorf("%d were written at once", n)
	}
	if _, again := e.next(now); !again.Equal(now.Add(eventEvery)) {
		t.Errorf("the next is written at %v", again)
	}
	if n := len(e.write(now.Add(10 * eventEvery))); n != 10 {
		t.Errorf("%d were written later", n)
	}
	// What is written gives way.
	if _, drop := e.add(store.Event{Reason: "Last"}, now); drop || len(e.order) != seriesMost || len(e.series) != seriesMost {
		t.Errorf("dropped: %t, and there are %d, %d", drop, len(e.order), len(e.series))
	}
}

func TestEventName(t *testing.T) {
	long := strings.Repeat("a", 233) + ".b" + strings.Repeat("c", 18)
	for about, want := range map[string]string{
		"web-1":                           "web-1.18a",
		long:                              long[:249] + ".18a",
		strings.Repeat("a", 248) + ".bcd": strings.Repeat("a", 248) + ".18a",
	} {
		if diff := cmp.Diff(want, eventName(about, 0x18a)); diff != "" {
			t.Error(diff)
		}
	}
}
