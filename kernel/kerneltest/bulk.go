package kerneltest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/twill-cni/twill/kernel"
)

var _ kernel.BulkTables = (*Tables)(nil)

// bulkSet is a Bulk set's content.
type bulkSet struct {
	shape    kernel.Set
	entries  map[string]string
	unlisted bool // made and not listed since
}

// FailNextChange makes the next ChangeElements fail with err and change nothing. Calls add up.
func (t *Tables) FailNextChange(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failChange = append(t.failChange, err)
}

// FailNextEntries makes the next Entries fail with err after it has told half of the elements. Calls add up.
func (t *Tables) FailNextEntries(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failEntries = append(t.failEntries, err)
}

// FailNextList makes the next ListElements fail with err. Calls add up.
func (t *Tables) FailNextList(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failList = append(t.failList, err)
}

// ListElements returns the elements of a set that is not Bulk, as the real handle does. A set or table that is not there is ENOENT.
func (t *Tables) ListElements(family kernel.TableFamily, table, set string) ([]kernel.Element, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failList) > 0 {
		err := t.failList[0]
		t.failList = t.failList[1:]
		return nil, err
	}
	for _, s := range t.tables[tableKey{table, family}].Sets {
		if s.Name == set {
			return slices.Clone(s.Elements), nil
		}
	}
	return nil, fmt.Errorf("list set %s of table %s: %w", set, table, syscall.ENOENT)
}

// DisturbNextEntries makes the next Entries begin again after it has told half of the elements. Calls add up.
func (t *Tables) DisturbNextEntries() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.disturb++
}

// ElementChanges returns how many elements ChangeElements has removed and added so far.
func (t *Tables) ElementChanges() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.elementChanges
}

// ChangeElements implements kernel.BulkTables. As with the real one, the observer is not told, and a set that SyncTables made has to be
// listed first. What the kernel refuses is refused: ENOENT, EEXIST, EINVAL for a key or value of a wrong length, ENFILE for a full set.
func (t *Tables) ChangeElements(ctx context.Context, family kernel.TableFamily, table string, changes []kernel.SetChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failChange) > 0 {
		err := t.failChange[0]
		t.failChange = t.failChange[1:]
		return err
	}
	changed := map[string]map[string]string{}
	count := 0
	for _, remove := range []bool{true, false} {
		for _, c := range changes {
			if len(c.Remove)+len(c.Add) == 0 {
				continue
			}
			set := t.bulk[kernel.SetID{Family: family, Table: table, Set: c.Set}]
			if set == nil || set.unlisted {
				return fmt.Errorf("change elements of set %s of table %s: %w", c.Set, table, syscall.ENOENT)
			}
			if changed[c.Set] == nil {
				changed[c.Set] = maps.Clone(set.entries)
			}
			if err := set.change(changed[c.Set], c, remove); err != nil {
				return fmt.Errorf("set %s of table %s: %w", c.Set, table, err)
			}
			if remove {
				count += len(c.Remove) + len(c.Add)
			}
		}
	}
	for name, entries := range changed {
		t.bulk[kernel.SetID{Family: family, Table: table, Set: name}].entries = entries
	}
	t.elementChanges += count
	return nil
}

// change removes or adds what c says.
func (s *bulkSet) change(entries map[string]string, c kernel.SetChange, remove bool) error {
	if remove {
		for _, key := range c.Remove {
			if _, ok := entries[key]; !ok {
				return fmt.Errorf("remove %s: %w", text(s.shape.Key, key), syscall.ENOENT)
			}
			delete(entries, key)
		}
		return nil
	}
	for _, e := range c.Add {
		have, ok := entries[e.Key]
		switch {
		case len(e.Key) != width(s.shape.Key) || len(e.Value) != width(s.shape.Value):
			return fmt.Errorf("add %d bytes : %d bytes: %w", len(e.Key), len(e.Value), syscall.EINVAL)
		case ok && have != e.Value:
			return fmt.Errorf("add %s: %w", text(s.shape.Key, e.Key), syscall.EEXIST)
		case !ok && s.shape.Size > 0 && len(entries) >= int(s.shape.Size):
			return fmt.Errorf("add %s: %w", text(s.shape.Key, e.Key), syscall.ENFILE)
		}
		entries[e.Key] = e.Value
	}
	return nil
}

// Entries implements kernel.BulkTables.
func (t *Tables) Entries(ctx context.Context, id kernel.SetID, reset func(), each func(kernel.Entry)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	entries := maps.Clone(t.entriesOf(id))
	var err error
	if len(t.failEntries) > 0 {
		err, t.failEntries = t.failEntries[0], t.failEntries[1:]
	}
	disturbed := t.disturb > 0
	if disturbed {
		t.disturb--
	}
	if set := t.bulk[id]; set != nil && err == nil {
		set.unlisted = false
	}
	t.mu.Unlock()
	tell := func(n int) {
		reset()
		for key, value := range entries {
			if n--; n < 0 {
				return
			}
			each(kernel.Entry{Key: key, Value: value})
		}
	}
	half := (len(entries) + 1) / 2
	if disturbed {
		tell(half)
	}
	if err != nil {
		tell(half)
		return err
	}
	tell(len(entries))
	return nil
}

// PutEntries adds or changes elements behind the caller's back.
func (t *Tables) PutEntries(id kernel.SetID, entries ...kernel.Entry) {
	t.mu.Lock()
	for _, e := range entries {
		t.bulk[id].entries[e.Key] = e.Value
	}
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: id.Table})
}

// DeleteEntries removes elements behind the caller's back.
func (t *Tables) DeleteEntries(id kernel.SetID, keys ...string) {
	t.mu.Lock()
	for _, key := range keys {
		delete(t.bulk[id].entries, key)
	}
	t.unlockAndTell(kernel.Event{Kind: kernel.KindTable, Table: id.Table})
}

// DumpSet returns the elements of a Bulk set as text, one line each, sorted.
func (t *Tables) DumpSet(id kernel.SetID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for key, value := range t.entriesOf(id) {
		line := text(t.bulk[id].shape.Key, key)
		if value != "" {
			line += " : " + text(t.bulk[id].shape.Value, value)
		}
		lines = append(lines, line+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (t *Tables) entriesOf(id kernel.SetID) map[string]string {
	if set := t.bulk[id]; set != nil {
		return set.entries
	}
	return nil
}

// putBulkSets makes the Bulk sets of a table that was written: one whose types are as they were keeps its elements.
func (t *Tables) putBulkSets(table kernel.Table) {
	wanted := map[kernel.SetID]bool{}
	for _, s := range table.Sets {
		if !s.Bulk {
			continue
		}
		id := kernel.SetID{Family: table.Family, Table: table.Name, Set: s.Name}
		wanted[id] = true
		have := t.bulk[id]
		switch {
		case have == nil || !slices.Equal(have.shape.Key, s.Key) || !slices.Equal(have.shape.Value, s.Value):
			t.bulk[id] = &bulkSet{shape: s, entries: map[string]string{}, unlisted: true}
		case have.shape.Size != s.Size:
			have.shape, have.unlisted = s, true
		}
	}
	maps.DeleteFunc(t.bulk, func(id kernel.SetID, _ *bulkSet) bool {
		return id.Family == table.Family && id.Table == table.Name && !wanted[id]
	})
}

// width is the length of a key or value: each part of a concatenation takes multiples of 4 bytes.
func width(parts []kernel.Type) int {
	n := 0
	for _, t := range parts {
		switch t {
		case kernel.TypeIPv6Addr, kernel.TypeIfname:
			n += 16
		default:
			n += 4
		}
	}
	return n
}

// text prints a key or value as nft does.
func text(parts []kernel.Type, s string) string {
	var out []string
	for _, t := range parts {
		switch t {
		case kernel.TypeIPv4Addr, kernel.TypeIPv6Addr:
			a, rest := kernel.CutAddr(s, t == kernel.TypeIPv6Addr)
			out, s = append(out, a.String()), rest
		case kernel.TypeInetProto:
			p, rest := kernel.CutProto(s)
			name, ok := map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"}[p]
			if !ok {
				name = fmt.Sprint(p)
			}
			out, s = append(out, name), rest
		case kernel.TypeInetService:
			p, rest := kernel.CutPort(s)
			out, s = append(out, fmt.Sprint(p)), rest
		default:
			n, rest := kernel.CutNumber(s)
			out, s = append(out, fmt.Sprint(n)), rest
		}
	}
	return strings.Join(out, " . ")
}
