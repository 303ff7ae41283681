package kerneltest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/twill-cni/twill/kernel"
)

// Tables is the nftables of one network namespace in memory. Its methods may be called concurrently; the observer must
// not call back.
type Tables struct {
	mu       sync.Mutex
	tables   map[string]kernel.Table
	fail     []error
	writes   int
	resyncs  int
	observer func(kernel.Event)
}

// NewTables returns an empty ruleset.
func NewTables() *Tables { return &Tables{tables: map[string]kernel.Table{}} }

// Observe has f told of each notification, from the goroutine that caused it.
func (t *Tables) Observe(f func(kernel.Event)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.observer = f
}

// FailNext makes the next SyncTables fail with err and change nothing. Calls add up.
func (t *Tables) FailNext(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail = append(t.fail, err)
}

// Writes returns how many transactions were written so far.
func (t *Tables) Writes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.writes
}

// Resync implements kernel.Tables. There is no memory here that could be wrong: the calls are counted.
func (t *Tables) Resync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resyncs++
}

// Resyncs returns how often Resync was called.
func (t *Tables) Resyncs() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resyncs
}

// SyncTables implements kernel.Tables. Tables that were put behind its back and are named neither in desired nor in stale
// are left alone.
func (t *Tables) SyncTables(ctx context.Context, desired []kernel.Table, stale []string) error {
	t.mu.Lock()
	if err := ctx.Err(); err != nil {
		t.mu.Unlock()
		return err
	}
	if len(t.fail) > 0 {
		err := t.fail[0]
		t.fail = t.fail[1:]
		t.mu.Unlock()
		return err
	}
	var events []kernel.Event
	for _, want := range desired {
		if have, ok := t.tables[want.Name]; !ok || !reflect.DeepEqual(have, want) {
			t.tables[want.Name] = want
			events = append(events, kernel.Event{Kind: kernel.KindTable, Table: want.Name})
		}
	}
	for _, name := range stale {
		if _, ok := t.tables[name]; ok && strings.HasPrefix(name, kernel.TablePrefix) {
			delete(t.tables, name)
			events = append(events, kernel.Event{Kind: kernel.KindTable, Table: name, Deleted: true})
		}
	}
	t.writes += len(events)
	t.unlockAndTell(events...)
	return nil
}

// PutTable makes or changes a table behind the caller's back.
func (t *Tables) PutTable(table kernel.Table) {
	t.mu.Lock()
	t.tables[table.Name] = table
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: table.Name})
}

// DeleteTable removes a table behind the caller's back.
func (t *Tables) DeleteTable(name string) {
	t.mu.Lock()
	delete(t.tables, name)
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: name, Deleted: true})
}

// Dump returns all tables as text, sorted by name.
func (t *Tables) Dump() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.tables)) {
		table := t.tables[name]
		fmt.Fprintf(&b, "table %s\n", name)
		for _, set := range table.Sets {
			fmt.Fprintf(&b, "  set %s: %d elements\n", set.Name, len(set.Elements))
		}
		for _, chain := range table.Chains {
			fmt.Fprintf(&b, "  chain %s: %d rules\n", chain.Name, len(chain.Rules))
		}
	}
	return b.String()
}

func (t *Tables) unlockAndTell(events ...kernel.Event) {
	observer := t.observer
	t.mu.Unlock()
	if observer == nil {
		return
	}
	for _, ev := range events {
		observer(ev)
	}
}
