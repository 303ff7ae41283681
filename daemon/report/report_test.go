package report

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

var (
	errPlain = errors.New("sync failed")
	errOther = errors.New("sync failed in another way")
	errCIDR  = fmt.Errorf("register: %w", errors.Join(errPlain, &store.Trouble{Reason: store.ReasonPodCIDRMissing, Err: errors.New("no podCIDRs")}))
)

func TestLook(t *testing.T) {
	type look struct {
		after time.Duration
		amiss error
	}
	every := func(d time.Duration, errs ...error) (looks []look) {
		for _, err := range errs {
			looks = append(looks, look{d, err})
		}
		return looks
	}
	const short, long = patience / 2, patience
	tests := map[string]struct {
		looks []look
		want  []string
	}{
		"all is well":        {every(long, nil, nil, nil), nil},
		"a moment":           {every(short, nil, errPlain, errPlain, nil, nil, nil, nil, nil), nil},
		"a while":            {every(long, nil, errPlain, errPlain, errPlain), []string{"Warning NetworkNotReady"}},
		"from the start":     {every(long, errPlain, errPlain), []string{"Warning NetworkNotReady"}},
		"a while, then well": {every(long, errPlain, errPlain, nil, nil, nil), []string{"Warning NetworkNotReady", "Normal NetworkReady"}},
		"the text changes":   {every(long, errPlain, errPlain, errOther, errPlain, errOther), []string{"Warning NetworkNotReady"}},
		"the text changes before it is told": {every(short, errPlain, errOther, errPlain, errOther),
			[]string{"Warning NetworkNotReady"}},
		"a reason": {every(long, errCIDR, errCIDR), []string{"Warning PodCIDRMissing"}},
		"another reason": {every(long, errPlain, errPlain, errCIDR, errCIDR, errPlain, errPlain, nil, nil),
			[]string{"Warning NetworkNotReady", "Warning PodCIDRMissing", "Normal NetworkReady"}},
		"two reasons in turns": {every(short, errPlain, errCIDR, errPlain, errCIDR, errPlain, errCIDR, errPlain),
			[]string{"Warning NetworkNotReady", "Warning PodCIDRMissing"}},
		"it comes and goes": {append(every(long, errPlain, errPlain), every(short, nil, nil, errPlain, nil, nil, errPlain, errPlain, errPlain, errPlain, nil, nil)...),
			[]string{"Warning NetworkNotReady"}},
		"it never lasts": {every(short, errPlain, nil, errPlain, nil, errPlain, nil, errPlain, nil, errPlain), nil},
		"twice": {every(long, errPlain, errPlain, nil, nil, errPlain, errPlain, nil, nil),
			[]string{"Warning NetworkNotReady", "Normal NetworkReady", "Warning NetworkNotReady", "Normal NetworkReady"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			var s state
			var got []string
			for _, l := range tt.looks {
				now = now.Add(l.after)
				for _, e := range s.look(now, l.amiss) {
					got = append(got, text(e))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func text(e store.Event) string {
	if e.Warning {
		return "Warning " + e.Reason
	}
	return "Normal " + e.Reason
}

// teller writes down what it is told.
type teller struct {
	mu   sync.Mutex
	told []string
}

func (t *teller) tell(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = append(t.told, what)
}

func (t *teller) Serving()            { t.tell("serving") }
func (t *teller) Event(e store.Event) { t.tell(text(e)) }

// The node serves, fails, and serves again; the datastore is away for a time, which is told nobody.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		ready, amiss := errors.New("starting"), errors.New("starting")
		ask := func(err *error) func() error {
			return func() error {
				mu.Lock()
				defer mu.Unlock()
				return *err
			}
		}
		told := &teller{}
		f := New(Options{Ready: ask(&ready), Amiss: ask(&amiss), Teller: told})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		for _, step := range []struct {
			ready, amiss error
			last         time.Duration
			want         []string
		}{
			{errPlain, errPlain, time.Second, nil},
			{nil, nil, 2 * lookSoon, []string{"serving"}},
			{errPlain, nil, time.Hour, nil},
			{errPlain, errCIDR, time.Minute, []string{"Warning PodCIDRMissing"}},
			{nil, nil, time.Hour, []string{"Normal NetworkReady"}},
		} {
			mu.Lock()
			ready, amiss = step.ready, step.amiss
			mu.Unlock()
			time.Sleep(step.last)
			synctest.Wait()
			told.mu.Lock()
			if diff := cmp.Diff(step.want, told.told); diff != "" {
				t.Error(diff)
			}
			told.told = nil
			told.mu.Unlock()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestFailed(t *testing.T) {
	want := store.Event{Warning: true, Reason: store.ReasonPodCIDRMissing, Message: errCIDR.Error()}
	if diff := cmp.Diff(want, Failed(errCIDR)); diff != "" {
		t.Error(diff)
	}
	if got := Failed(errPlain).Reason; got != ReasonNotReady {
		t.Error(got)
	}
}
