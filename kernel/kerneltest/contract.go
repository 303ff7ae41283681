package kerneltest

import (
	"errors"
	"maps"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// contractTable has a Bulk map and a Bulk set of numbers.
func contractTable(value kernel.Type) kernel.Table {
	number := []kernel.Type{kernel.TypeMark}
	return kernel.Table{Family: kernel.FamilyIPv4, Name: kernel.TablePrefix + "contract", Sets: []kernel.Set{
		{Name: "map", Key: number, Value: []kernel.Type{value}, Bulk: true},
		{Name: "set", Key: number, Bulk: true},
	}}
}

// BulkContract checks what every kernel.BulkTables has to do. It starts without tables and leaves one.
func BulkContract(t *testing.T, tables kernel.BulkTables) {
	t.Helper()
	c := contract{t, tables}
	table := contractTable(kernel.TypeMark)
	c.refused(syscall.ENOENT, add("map", 1, 1))
	c.holds("map", nil)
	c.sync(table)
	c.refused(syscall.ENOENT, add("map", 1, 1)) // made, and not listed yet
	c.holds("map", nil)
	c.holds("set", nil)
	c.change(add("map", 1, 10), add("map", 2, 20), kernel.SetChange{Set: "set", Add: []kernel.Entry{{Key: number(7)}}})
	two := map[string]string{number(1): number(10), number(2): number(20)}
	c.holds("map", two)
	c.holds("set", map[string]string{number(7): ""})
	c.change(add("map", 1, 10)) // what is there is no error
	c.change()
	c.refused(syscall.EEXIST, add("map", 3, 30), add("map", 1, 11))
	c.refused(syscall.ENOENT, add("map", 3, 30), remove("map", 4))
	c.refused(syscall.ENOENT, add("map", 3, 30), remove("set", 8))
	c.refused(syscall.ENOENT, remove("nothing", 8))
	c.refused(syscall.EINVAL, kernel.SetChange{Set: "map", Add: []kernel.Entry{{Key: number(5) + number(5), Value: number(1)}}})
	c.holds("map", two)
	c.change(add("map", 1, 11), remove("map", 1)) // removals come first, whatever the order
	two[number(1)] = number(11)
	c.holds("map", two)

	table.Chains = []kernel.Chain{{Name: "more"}}
	c.sync(table)
	c.holds("map", two)
	c.sync(contractTable(kernel.TypePriority))
	c.refused(syscall.ENOENT, add("map", 1, 1))
	c.holds("map", nil)
	c.holds("set", map[string]string{number(7): ""})
}

type contract struct {
	t      *testing.T
	tables kernel.BulkTables
}

func (c contract) sync(table kernel.Table) {
	c.t.Helper()
	if err := c.tables.SyncTables(c.t.Context(), []kernel.Table{table}, nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c contract) change(changes ...kernel.SetChange) {
	c.t.Helper()
	if err := c.tables.ChangeElements(c.t.Context(), kernel.FamilyIPv4, kernel.TablePrefix+"contract", changes); err != nil {
		c.t.Fatal(err)
	}
}

func (c contract) refused(want error, changes ...kernel.SetChange) {
	c.t.Helper()
	err := c.tables.ChangeElements(c.t.Context(), kernel.FamilyIPv4, kernel.TablePrefix+"contract", changes)
	if !errors.Is(err, want) {
		c.t.Errorf("have error %v, want %v", err, want)
	}
}

func (c contract) holds(set string, want map[string]string) {
	c.t.Helper()
	have := map[string]string{}
	id := kernel.SetID{Family: kernel.FamilyIPv4, Table: kernel.TablePrefix + "contract", Set: set}
	err := c.tables.Entries(c.t.Context(), id, func() { clear(have) }, func(e kernel.Entry) { have[e.Key] = e.Value })
	if err != nil {
		c.t.Fatal(err)
	}
	if !maps.Equal(want, have) {
		c.t.Errorf("set %s: %s", set, cmp.Diff(want, have))
	}
}

func number(n uint32) string { return string(kernel.AppendNumber(nil, n)) }

func add(set string, key, value uint32) kernel.SetChange {
	return kernel.SetChange{Set: set, Add: []kernel.Entry{{Key: number(key), Value: number(value)}}}
}

func remove(set string, key uint32) kernel.SetChange {
	return kernel.SetChange{Set: set, Remove: []string{number(key)}}
}
