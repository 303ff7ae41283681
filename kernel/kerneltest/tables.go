package kerneltest

import (
	"cmp"
	"context"
	"errors"
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
	tables   map[tableKey]kernel.Table
	bulk     map[kernel.SetID]*bulkSet
	states   map[kernel.SetID][]kernel.EntryState // what the kernel notes of elements
	fail     []error
	writes   int
	resyncs  int
	observer func(kernel.Event)

	failChange, failEntries, failList []error
	disturb                           int
	elementChanges                    int
}

// tableKey identifies a table: each family has its own.
type tableKey struct {
	name   string
	family kernel.TableFamily
}

func keyOf(t kernel.Table) tableKey { return tableKey{t.Name, t.Family} }

// NewTables returns an empty ruleset.
func NewTables() *Tables {
	return &Tables{tables: map[tableKey]kernel.Table{}, bulk: map[kernel.SetID]*bulkSet{}}
}

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

// SyncTables implements kernel.Tables. A table that the kernel would refuse (see validate) changes nothing. Tables that were put behind its back and are named neither in desired nor in stale
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
	var errs []error
	for _, want := range desired {
		if have, ok := t.tables[keyOf(want)]; ok && reflect.DeepEqual(have, want) {
			continue
		}
		if err := validate(want); err != nil {
			errs = append(errs, err)
			continue
		}
		t.put(want)
		events = append(events, kernel.Event{Kind: kernel.KindTable, Table: want.Name})
	}
	for _, name := range stale {
		if strings.HasPrefix(name, kernel.TablePrefix) && t.remove(name) {
			events = append(events, kernel.Event{Kind: kernel.KindTable, Table: name, Deleted: true})
		}
	}
	t.writes += len(events)
	t.unlockAndTell(events...)
	return errors.Join(errs...)
}

func (t *Tables) put(table kernel.Table) {
	t.tables[keyOf(table)] = table
	t.putBulkSets(table)
}

// remove removes the tables of a name, of all families, and reports whether there was one.
func (t *Tables) remove(name string) bool {
	found := false
	for key, table := range t.tables {
		if key.name == name {
			found = true
			t.putBulkSets(kernel.Table{Family: table.Family, Name: name})
			delete(t.tables, key)
		}
	}
	return found
}

// PutTable makes or changes a table behind the caller's back.
func (t *Tables) PutTable(table kernel.Table) {
	t.mu.Lock()
	t.put(table)
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: table.Name})
}

// DeleteTable removes a table, of all families, behind the caller's back.
func (t *Tables) DeleteTable(name string) {
	t.mu.Lock()
	t.remove(name)
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: name, Deleted: true})
}

// Dump returns all tables as text, sorted by name and family.
func (t *Tables) Dump() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	keys := slices.SortedFunc(maps.Keys(t.tables), func(x, y tableKey) int {
		return cmp.Or(strings.Compare(x.name, y.name), cmp.Compare(x.family, y.family))
	})
	for _, key := range keys {
		table := t.tables[key]
		fmt.Fprintf(&b, "table %s%s\n", [...]string{kernel.FamilyIPv4: "ip ", kernel.FamilyIPv6: "ip6 ", kernel.FamilyBridge: "bridge "}[key.family], key.name)
		for _, set := range table.Sets {
			elements := len(set.Elements) + len(t.entriesOf(kernel.SetID{Family: table.Family, Table: table.Name, Set: set.Name}))
			fmt.Fprintf(&b, "  set %s: %d elements\n", set.Name, elements)
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
