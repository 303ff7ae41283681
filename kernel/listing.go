package kernel

import (
	"context"
	"fmt"
)

// Listing is what Bulk sets of a table hold: value by key by set. The zero value is a table without entries.
type Listing struct{ Sets map[string]map[string]string }

// Clear forgets a set's entries.
func (l *Listing) Clear(set string) { delete(l.Sets, set) }

// Add tells of an entry.
func (l *Listing) Add(set string, e Entry) {
	if l.Sets == nil {
		l.Sets = map[string]map[string]string{}
	}
	if l.Sets[set] == nil {
		l.Sets[set] = map[string]string{}
	}
	l.Sets[set][e.Key] = e.Value
}

// Read fills the listing with what the sets of a table hold.
func (l *Listing) Read(ctx context.Context, from BulkTables, family TableFamily, table string, sets ...string) error {
	for _, set := range sets {
		id := SetID{Family: family, Table: table, Set: set}
		if err := from.Entries(ctx, id, func() { l.Clear(set) }, func(e Entry) { l.Add(set, e) }); err != nil {
			return fmt.Errorf("list set %s: %w", set, err)
		}
	}
	return nil
}
