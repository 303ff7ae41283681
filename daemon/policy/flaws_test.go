package policy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/store"
)

// telling is a source that tells what tests hand to it.
type telling chan store.PolicyChanges

func (s telling) WatchPolicies(ctx context.Context, emit func(store.PolicyChanges)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-s:
			emit(c)
		}
	}
}

// What is not understood is said until it is mended: once in the log, by the figure, and to whoever asks, after a while.
func TestFlaws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, log, registry := make(telling), &daemontest.Log{}, prometheus.NewRegistry()
		f := NewFlaws(source, registry, slog.New(slog.NewTextHandler(log, nil)), func(d time.Duration) time.Duration { return d - 1 })
		ctx, cancel := context.WithCancel(t.Context())
		var handed []store.PolicyChanges
		ended := make(chan error)
		go func() { ended <- f.WatchPolicies(ctx, func(c store.PolicyChanges) { handed = append(handed, c) }) }()
		reject := func(key, text string) store.Reject { return store.Reject{Key: key, Err: errors.New(text)} }
		web, db := reject("networkpolicies/shop/web", "spec.ingress[0]"), reject("networkpolicies/shop/db", "no selector")
		var many []store.Reject
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			many = append(many, reject("networkpolicies/shop/"+name, "bad"))
		}
		logged := func(text string, times int) {
			t.Helper()
			if n := log.Count(text); n != times {
				t.Errorf("%d lines with %q, want %d:\n%s", n, text, times, log)
			}
		}
		for _, step := range []struct {
			name   string
			flawed []store.Reject
			amiss  []string // parts of what Amiss says at last; none: it says nothing
		}{
			{"all is well", nil, nil},
			{"one", []store.Reject{web}, []string{"networkpolicies/shop/web: spec.ingress[0]"}},
			{"two, which are told again", []store.Reject{db, web}, []string{"shop/web: spec.ingress[0]", "shop/db: no selector"}},
			{"another way", []store.Reject{db, reject(web.Key, "spec.egress[0]")}, []string{"shop/web: spec.egress[0]"}},
			{"mended", nil, nil},
			{"many", many, []string{"shop/e: bad; and 2 more"}},
		} {
			began := len(f.now) == 0
			source <- store.PolicyChanges{Rejected: step.flawed, Flawed: step.flawed}
			synctest.Wait()
			if err := f.Amiss(); began && err != nil {
				t.Errorf("%s: said at once: %v", step.name, err)
			}
			if n := daemontest.Figure(t, registry, "twill_policy_flawed_objects"); n != float64(len(step.flawed)) {
				t.Errorf("%s: the figure is %v", step.name, n)
			}
			time.Sleep(flawsSpread)
			err := f.Amiss()
			if (err != nil) != (len(step.amiss) > 0) || err != nil && store.ReasonOf(err, "") != store.ReasonPolicyFlawed {
				t.Errorf("%s: %v", step.name, err)
			}
			for _, part := range step.amiss {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v, want %s in it", step.name, err, part)
				}
			}
		}
		logged("spec.ingress[0]", 1)
		logged("spec.egress[0]", 1)
		logged("no selector", 1)
		logged("policy is understood, or gone", 2)
		if len(handed) != 6 {
			t.Errorf("handed on: %+v", handed)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
