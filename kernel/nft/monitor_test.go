package nft

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

const patience = 10 * time.Second

// watch runs a monitor for the handle and returns its events. It ends with the test.
func watch(t *testing.T, h *Handle) <-chan kernel.Event {
	t.Helper()
	m, err := h.NewMonitor()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan kernel.Event, 1000)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, func(e kernel.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return events
}

// nextEvent returns the next event.
func nextEvent(t *testing.T, events <-chan kernel.Event) kernel.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		t.Fatal("no event")
		return kernel.Event{}
	}
}

// until has nft make a change that is certain to be reported, and returns the events before it.
func until(t *testing.T, events <-chan kernel.Event) []kernel.Event {
	t.Helper()
	nftScript(t, "add table inet twill-marker\ndelete table inet twill-marker\n")
	var out []kernel.Event
	for {
		e := nextEvent(t, events)
		if e.Table == "twill-marker" {
			return out
		}
		out = append(out, e)
	}
}

func TestMonitor(t *testing.T) {
	changed := kernel.Event{Kind: kernel.KindTable, Table: "twill-test"}
	tests := []struct {
		name, script string
		want         []kernel.Event
	}{
		{"table deleted", "delete table inet twill-test", []kernel.Event{{Kind: kernel.KindTable, Table: "twill-test", Deleted: true}}},
		{"rule inserted", "insert rule inet twill-test filter accept", []kernel.Event{changed}},
		{"element deleted", "delete element inet twill-test marks { 0x4000 }", []kernel.Event{changed}},
		{"many changes in one transaction", "flush chain inet twill-test post\nadd element inet twill-test marks { 1, 2, 3 }", []kernel.Event{changed}},
		{"element of a foreign set", "add element inet twill-test others { 10.0.0.1 }", nil},
		{"table of others", "add table inet other\nadd chain inet other c\nadd rule inet other c accept\n", nil},
		{"table of others deleted", "add table inet other\ndelete table inet other\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, log := open(t)
			events := watch(t, h)
			syncTables(t, h, everything()) // our own transaction
			want := list(t)
			nftScript(t, tt.script)
			got := until(t, events)
			if diff := cmp.Diff(tt.want, got, equateAddrs); diff != "" {
				t.Error(diff)
			}
			syncTables(t, h, everything())
			if tt.want != nil {
				wantWrites(t, log, 2)
				if diff := cmp.Diff(want, list(t)); diff != "" {
					t.Error(diff)
				}
			} else {
				wantWrites(t, log, 1)
			}
		})
	}
}

// TestMonitorSparesListing has a foreign transaction between two syncs: with a monitor, the second trusts its memory.
func TestMonitorSparesListing(t *testing.T) {
	h, _ := open(t)
	events := watch(t, h)
	syncTables(t, h, everything())
	nft(t, "add", "table", "inet", "other")
	until(t, events)
	if err := h.SyncTables(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if h.known[tableID{families[kernel.FamilyInet], "twill-test"}] == nil {
		t.Error("the handle forgot a table that nobody touched")
	}
}

// TestLostNotifications has more happen than the socket's buffer holds while nobody reads.
func TestLostNotifications(t *testing.T) {
	h, log := open(t)
	m, err := h.newMonitor(4 << 10)
	if err != nil {
		t.Fatal(err)
	}
	syncTables(t, h, everything())
	want := list(t)
	noise, _ := openHere(t)
	table := manyElements(1000)
	table.Name = "noise"
	syncTables(t, noise, table)
	nft(t, "insert", "rule", "inet", "twill-test", "filter", "accept") // of which nothing is heard any more
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var events []kernel.Event
	err = m.Run(ctx, func(e kernel.Event) {
		events = append(events, e)
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Run returned %v", err)
	}
	if len(events) == 0 || !events[0].Lost {
		t.Fatalf("have events %v, want that some were lost", events)
	}
	syncTables(t, h, everything())
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Error(diff)
	}
	wantWrites(t, log, 2)
}

// TestDriftIsRepairedInTime is the way that the daemon goes: an event wakes a sync.
func TestDriftIsRepairedInTime(t *testing.T) {
	h, _ := open(t)
	events := watch(t, h)
	syncTables(t, h, everything())
	want := list(t)
	for range 10 {
		nft(t, "delete", "table", "inet", "twill-test")
		nextEvent(t, events)
		syncTables(t, h, everything())
		if diff := cmp.Diff(want, list(t)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestMonitorAndBulk has the handle change more elements than the monitor's socket has room for, and others a few.
func TestMonitorAndBulk(t *testing.T) {
	h, log := open(t)
	events := watch(t, h)
	syncTables(t, h, choosing(kernel.FamilyIPv4))
	listBulk(t, h)
	const n, piece = 300_000, 10_000
	all := endpoints(0, n)
	for i := 0; i < n; i += piece {
		changeElements(t, h, setChange("endpoints", nil, all[i:i+piece]...))
	}
	if got := until(t, events); len(got) > 0 {
		t.Fatalf("own changes are reported: %v", got)
	}
	changed := []kernel.Event{{Kind: kernel.KindTable, Table: "twill-test"}}
	other, _ := openHere(t)
	changeElements(t, other, setChange("endpoints", keys(all[:2])))
	if diff := cmp.Diff(changed, until(t, events), equateAddrs); diff != "" {
		t.Errorf("a change by another handle: %s", diff)
	}
	nftScript(t, "add element ip twill-test services { 10.96.0.1 . tcp . 80 : 0:5 }")
	if diff := cmp.Diff(changed, until(t, events), equateAddrs); diff != "" {
		t.Errorf("a change by nft: %s", diff)
	}
	syncTables(t, h, choosing(kernel.FamilyIPv4))
	nftScript(t, "add element ip twill-test seen { 10.96.0.1 timeout 1m }")
	if got := until(t, events); len(got) > 0 {
		t.Errorf("changes of a dynamic set are reported: %v", got)
	}
	wantWrites(t, log, 1)
}

// TestMonitorTellsTablesApart: what happens to one of our tables does not make the handle list the other.
func TestMonitorTellsTablesApart(t *testing.T) {
	h, _ := open(t)
	events := watch(t, h)
	syncTables(t, h, everything(), choosing(kernel.FamilyIPv4))
	nftScript(t, "add element ip twill-test services { 10.96.0.1 . tcp . 80 : 0:5 }")
	until(t, events)
	if h.known[tableID{families[kernel.FamilyInet], "twill-test"}] == nil {
		t.Error("the handle forgot a table that nobody touched")
	}
	if h.known[tableID{families[kernel.FamilyIPv4], "twill-test"}] != nil {
		t.Error("the handle remembers a table that somebody touched")
	}
}
