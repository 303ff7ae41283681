package kerneltest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// PutStates says what the kernel notes of elements: of a Bulk set what its elements have counted, of a Dynamic set which elements packets have
// put there. Earlier states of the set are forgotten.
func (t *Tables) PutStates(id kernel.SetID, states ...kernel.EntryState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.states == nil {
		t.states = map[kernel.SetID][]kernel.EntryState{}
	}
	t.states[id] = slices.Clone(states)
}

// statesOf returns the elements of a set with what is noted of them, sorted by key.
func (t *Tables) statesOf(id kernel.SetID) []kernel.EntryState {
	if t.bulk[id] == nil {
		return slices.Clone(t.states[id])
	}
	noted := map[string]kernel.EntryState{}
	for _, s := range t.states[id] {
		noted[s.Key] = s
	}
	var out []kernel.EntryState
	entries := t.entriesOf(id)
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		state := noted[key]
		state.Entry = kernel.Entry{Key: key, Value: entries[key]}
		out = append(out, state)
	}
	return out
}

// EntryStates calls each with the elements of a set, as the real handle does.
func (t *Tables) EntryStates(ctx context.Context, id kernel.SetID, reset func(), each func(kernel.EntryState)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	all := t.statesOf(id)
	t.mu.Unlock()
	reset()
	for _, s := range all {
		each(s)
	}
	return nil
}

// Lookup returns those of a set's elements that are there, as the real handle does.
func (t *Tables) Lookup(ctx context.Context, id kernel.SetID, keys []string) ([]kernel.EntryState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.statesOf(id)
	var found []kernel.EntryState
	for _, key := range keys {
		if i := slices.IndexFunc(all, func(s kernel.EntryState) bool { return s.Key == key }); i >= 0 {
			found = append(found, all[i])
		}
	}
	return found, nil
}

// Differences says which chains of a table are other ones than they should be, or that the table is missing.
func (t *Tables) Differences(want kernel.Table) ([]kernel.Difference, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have, ok := t.tables[keyOf(want)]
	if !ok {
		return []kernel.Difference{{What: "table", Have: "nothing", Want: "a table"}}, nil
	}
	rules := func(table kernel.Table, name string) ([]kernel.Rule, string) {
		for _, c := range table.Chains {
			if c.Name == name {
				return c.Rules, fmt.Sprintf("%d rules", len(c.Rules))
			}
		}
		return nil, "nothing"
	}
	names := map[string]bool{}
	for _, c := range slices.Concat(have.Chains, want.Chains) {
		names[c.Name] = true
	}
	var out []kernel.Difference
	for _, name := range slices.SortedFunc(maps.Keys(names), strings.Compare) {
		is, isText := rules(have, name)
		should, shouldText := rules(want, name)
		if isText != shouldText || !reflect.DeepEqual(is, should) {
			out = append(out, kernel.Difference{What: "chain " + name, Have: isText, Want: shouldText})
		}
	}
	return out, nil
}
