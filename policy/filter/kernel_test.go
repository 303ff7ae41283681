package filter

import (
	"log/slog"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/policy/gate"
)

// inKernel opens nftables in a network namespace of the test's own, which vanishes with the test's thread.
func inKernel(t *testing.T) (*nft.Handle, *strings.Builder) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends a locked thread with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (this test needs root): %v", err)
	}
	var log strings.Builder
	h, err := nft.Open(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h, &log
}

// write writes a Plan as its documentation says.
func write(t *testing.T, h *nft.Handle, p Plan) {
	t.Helper()
	steps := func(changes []kernel.SetChange) {
		for _, c := range changes {
			if err := h.ChangeElements(t.Context(), gate.Family, gate.TableName, []kernel.SetChange{c}); err != nil {
				t.Fatal(err)
			}
		}
	}
	steps(p.Before)
	if p.Table != nil {
		if err := h.SyncTables(t.Context(), []kernel.Table{*p.Table}, nil); err != nil {
			t.Fatal(err)
		}
	}
	steps(p.After)
}

func listing(t *testing.T, h *nft.Handle) *Listing {
	t.Helper()
	l := &Listing{}
	for _, name := range BulkSets() {
		id := kernel.SetID{Family: gate.Family, Table: gate.TableName, Set: name}
		if err := h.Entries(t.Context(), id, func() { l.Clear(name) }, func(e kernel.Entry) { l.Add(name, e) }); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// TestKernel brings random tables and their changes into the kernel, which has to take them, and to hold in the end what a restarted filter wants.
func TestKernel(t *testing.T) {
	for seed := range seeds(2, 12) {
		h, log := inKernel(t)
		s := newScene(t, seed, hash32)
		sync := func(table kernel.Table) {
			if err := h.SyncTables(t.Context(), []kernel.Table{table}, nil); err != nil {
				t.Fatal(err)
			}
		}
		sync(gate.Closed(testConfig))
		listing(t, h)
		s.tell(s.cluster.Changes())
		s.attach()
		write(t, h, s.filter.Plan())
		for range 12 {
			s.tell(s.cluster.Change())
			s.attach()
			for p := s.filter.Plan(); !p.Empty(); p = s.filter.Plan() {
				write(t, h, p)
			}
		}
		s.filter.idleMost = 0 // which a restarted one does not know
		for p := s.filter.Plan(); !p.Empty(); p = s.filter.Plan() {
			write(t, h, p)
		}
		again := New(testConfig)
		again.Apply(s.cluster.Changes())
		again.SetLocal(s.locals)
		p := again.Compare(listing(t, h))
		h.Resync()
		log.Reset()
		write(t, h, p)
		if log.Len() > 0 || len(p.Before)+len(p.After) > 0 {
			t.Errorf("seed %d: a restart writes %d and %d changes, and: %s", seed, len(p.Before), len(p.After), log)
		}
		if out, err := exec.Command("nft", "list", "table", "inet", gate.TableName).CombinedOutput(); err != nil || strings.Contains(string(out), "# Unknown") {
			t.Errorf("nft list: %v\n%s", err, out)
		}
	}
}

// TestListing shows the table as nft does.
func TestListing(t *testing.T) {
	h, _ := inKernel(t)
	if err := h.SyncTables(t.Context(), []kernel.Table{gate.Closed(testConfig)}, nil); err != nil {
		t.Fatal(err)
	}
	listing(t, h)
	f := small()
	write(t, h, f.Plan())
	out, err := exec.Command("nft", "-nn", "list", "table", "inet", gate.TableName).CombinedOutput()
	if err != nil {
		t.Fatalf("nft list: %v\n%s", err, out)
	}
	golden(t, "small.nft", string(out))
}
