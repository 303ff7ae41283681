package nft

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// attached is what the CNI plugin does for one pod: two verdicts and the way to itself, of one address.
func attached(pod string) map[string][]kernel.Element {
	to := []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Jump, Chain: "open"}}}
	return map[string][]kernel.Element{
		"egress4": {{Key: []kernel.Datum{addr(pod)}, Value: to}},
		"self4":   {elem(addr(pod), addr(pod))},
	}
}

func ensureJudging(t *testing.T, h *Handle) bool {
	t.Helper()
	created, err := h.EnsureTable(t.Context(), judging())
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func TestEnsureTable(t *testing.T) {
	h, log := open(t)
	if !ensureJudging(t, h) {
		t.Error("the table was there")
	}
	want := list(t)
	// What somebody has changed, stays.
	nftScript(t, "add rule inet twill-test open drop\nadd chain inet twill-test more")
	changed := list(t)
	other, otherLog := openHere(t)
	if ensureJudging(t, other) || ensureJudging(t, h) {
		t.Error("the table was made again")
	}
	if diff := cmp.Diff(changed, list(t)); diff != "" {
		t.Error(diff)
	}
	wantWrites(t, log, 1)
	wantWrites(t, otherLog, 0)
	// The table is what the one who syncs it would have made.
	syncTables(t, h, judging())
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Error(diff)
	}
	wantWrites(t, log, 2)
	err := h.ChangeElements(t.Context(), kernel.FamilyInet, "twill-test", []kernel.SetChange{{Set: "pods4", Add: judgingEntries["pods4"]}})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("a set that was made and not listed was changed: %v", err)
	}
}

func TestEnsureTableRefused(t *testing.T) {
	h, _ := open(t)
	bad := judging()
	bad.Chains[1].Rules = []kernel.Rule{{Exprs: []kernel.Expr{kernel.Masquerade{}}}}
	if created, err := h.EnsureTable(t.Context(), bad); created || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("have %v, %v", created, err)
	}
	if rules := nft(t, "list", "ruleset"); rules != "" {
		t.Errorf("part of it was made:\n%s", rules)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if created, err := h.EnsureTable(ctx, judging()); created || !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, %v", created, err)
	}
	if !ensureJudging(t, h) {
		t.Error("the table was there")
	}
}

// TestEnsureTableAtOnce has many plugins and a daemon meet a host without the table.
func TestEnsureTableAtOnce(t *testing.T) {
	daemon, _ := open(t)
	const plugins = 16
	handles := make([]*Handle, plugins)
	for i := range handles {
		handles[i], _ = openHere(t)
	}
	type result struct {
		created bool
		err     error
	}
	results := make(chan result)
	for i, plugin := range handles {
		go func() {
			created, err := plugin.EnsureTable(t.Context(), judging())
			if err == nil {
				err = plugin.InsertElements(t.Context(), judging(), attached(netip.AddrFrom4([4]byte{10, 7, 0, byte(i)}).String()))
			}
			results <- result{created, err}
		}()
	}
	foreign := judging()
	for i := range foreign.Sets {
		if s := &foreign.Sets[i]; s.Name == "egress4" || s.Name == "self4" {
			s.Foreign, s.Elements = true, nil
		}
	}
	syncTables(t, daemon, foreign)
	created := 0
	for range handles {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		if r.created {
			created++
		}
	}
	if created > 1 {
		t.Errorf("%d plugins made the table", created)
	}
	if n := strings.Count(list(t), "10.7.0."); n != 3*plugins {
		t.Errorf("%d mentions of %d pods in\n%s", n, plugins, list(t))
	}
	again, log := openHere(t)
	syncTables(t, again, foreign)
	wantWrites(t, log, 0) // each rule is there once
}

func TestInsertElements(t *testing.T) {
	h, _ := open(t)
	insert := func(elems map[string][]kernel.Element) error { return h.InsertElements(t.Context(), judging(), elems) }
	if err := insert(attached("10.7.0.1")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no table: have %v, want ENOENT", err)
	}
	ensureJudging(t, h)
	want := list(t)
	nowhere := attached("10.7.0.1")
	nowhere["egress4"][0].Value[0].Verdict.Chain = "nowhere"
	if err := insert(nowhere); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no chain: have %v, want ENOENT", err)
	}
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Error(diff)
	}
	for range 2 { // the second time it is there
		if err := insert(attached("10.7.0.1")); err != nil {
			t.Fatal(err)
		}
	}
	nowhere["egress4"][0].Value[0].Verdict.Chain = "egress"
	if err := insert(nowhere); !errors.Is(err, unix.EEXIST) {
		t.Errorf("another verdict: have %v, want EEXIST", err)
	}
	more := attached("10.7.0.1")
	more["egress4"] = append(more["egress4"], attached("10.7.0.2")["egress4"]...) // one of them is not there
	for range 2 {
		if err := h.DeleteElements(t.Context(), kernel.FamilyInet, "twill-test", more); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, list(t)); diff != "" {
			t.Error(diff)
		}
	}
	nft(t, "delete", "table", "inet", "twill-test")
	if err := h.DeleteElements(t.Context(), kernel.FamilyInet, "twill-test", more); err != nil {
		t.Error(err)
	}
}

// benchmarkJudging runs a benchmark on a table with many pods.
func benchmarkJudging(b *testing.B, run func(h *Handle)) {
	b.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	h, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if err := h.SyncTables(b.Context(), []kernel.Table{judging()}, nil); err != nil {
		b.Fatal(err)
	}
	run(h)
}

// BenchmarkDeleteElements removes what is there, and what is not.
func BenchmarkDeleteElements(b *testing.B) {
	pod := attached("10.0.0.77")
	remove := func(b *testing.B, h *Handle) {
		if err := h.DeleteElements(b.Context(), kernel.FamilyInet, "twill-test", pod); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("there", func(b *testing.B) {
		benchmarkJudging(b, func(h *Handle) {
			for b.Loop() {
				b.StopTimer()
				if err := h.AddElements(b.Context(), judging(), pod); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				remove(b, h)
			}
		})
	})
	b.Run("gone", func(b *testing.B) {
		benchmarkJudging(b, func(h *Handle) {
			for b.Loop() {
				remove(b, h)
			}
		})
	})
}

// BenchmarkEnsureTable is what a table that is there costs the CNI plugin, and one pod's elements after that.
func BenchmarkEnsureTable(b *testing.B) {
	table := judging()
	b.Run("there", func(b *testing.B) {
		benchmarkJudging(b, func(h *Handle) {
			for b.Loop() {
				if created, err := h.EnsureTable(b.Context(), table); created || err != nil {
					b.Fatal(created, err)
				}
			}
		})
	})
	b.Run("with elements", func(b *testing.B) {
		benchmarkJudging(b, func(h *Handle) {
			for i := uint32(0); b.Loop(); i++ {
				pod := attached(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String())
				if _, err := h.EnsureTable(b.Context(), table); err != nil {
					b.Fatal(err)
				}
				if err := h.InsertElements(b.Context(), table, pod); err != nil && !errors.Is(err, unix.EEXIST) {
					b.Fatal(err)
				}
			}
		})
	})
}
