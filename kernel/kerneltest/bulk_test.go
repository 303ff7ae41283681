package kerneltest_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

func TestBulkContract(t *testing.T) { kerneltest.BulkContract(t, kerneltest.NewTables()) }

var portsID = kernel.SetID{Family: kernel.FamilyIPv6, Table: "twill-ports", Set: "ports"}

func portsTable() kernel.Table {
	return kernel.Table{Family: kernel.FamilyIPv6, Name: "twill-ports", Sets: []kernel.Set{{Name: "ports", Bulk: true, Size: 3,
		Key: []kernel.Type{kernel.TypeIPv6Addr, kernel.TypeInetProto, kernel.TypeInetService}, Value: []kernel.Type{kernel.TypeMark}}}}
}

func portEntry(port uint16) kernel.Entry {
	key := kernel.AppendPort(kernel.AppendProto(kernel.AppendAddr(nil, netip.MustParseAddr("fd00::1")), 6), port)
	return kernel.Entry{Key: string(key), Value: string(kernel.AppendNumber(nil, uint32(port)))}
}

func listPorts(t *testing.T, tables *kerneltest.Tables) (told int, err error) {
	t.Helper()
	err = tables.Entries(t.Context(), portsID, func() { told = 0 }, func(kernel.Entry) { told++ })
	return told, err
}

func TestBulkFake(t *testing.T) {
	tables := kerneltest.NewTables()
	var events []kernel.Event
	if err := tables.SyncTables(t.Context(), []kernel.Table{portsTable()}, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := listPorts(t, tables); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	tables.Observe(func(e kernel.Event) { events = append(events, e) })
	add := func(ports ...uint16) error {
		c := kernel.SetChange{Set: "ports"}
		for _, p := range ports {
			c.Add = append(c.Add, portEntry(p))
		}
		return tables.ChangeElements(t.Context(), kernel.FamilyIPv6, "twill-ports", []kernel.SetChange{c})
	}
	if err := add(80, 81); err != nil {
		t.Fatal(err)
	}
	if err := add(82, 83); !errors.Is(err, syscall.ENFILE) {
		t.Errorf("a full set: %v", err)
	}
	broken := errors.New("broken")
	tables.FailNextChange(broken)
	if err := add(82); !errors.Is(err, broken) {
		t.Errorf("have %v", err)
	}
	tables.FailNextEntries(broken)
	if n, err := listPorts(t, tables); n != 1 || !errors.Is(err, broken) {
		t.Error(n, err)
	}
	tables.DisturbNextEntries()
	if n, err := listPorts(t, tables); n != 2 || err != nil {
		t.Error(n, err)
	}
	if diff := cmp.Diff("fd00::1 . tcp . 80 : 80\nfd00::1 . tcp . 81 : 81\n", tables.DumpSet(portsID)); diff != "" {
		t.Error(diff)
	}
	if len(events) > 0 {
		t.Errorf("own changes are told: %v", events)
	}
	tables.PutEntries(portsID, portEntry(90))
	tables.DeleteEntries(portsID, portEntry(80).Key)
	if len(events) != 2 || events[0].Table != "twill-ports" {
		t.Errorf("events are %v", events)
	}
	if diff := cmp.Diff("table ip6 twill-ports\n  set ports: 2 elements\n", tables.Dump()); diff != "" {
		t.Error(diff)
	}
	if n := tables.ElementChanges(); n != 2 {
		t.Errorf("%d elements were changed", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tables.ChangeElements(ctx, kernel.FamilyIPv6, "twill-ports", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRefusedTables(t *testing.T) {
	jump := func(to string) []kernel.Rule {
		return []kernel.Rule{{Exprs: []kernel.Expr{kernel.Verdict{Kind: kernel.Jump, Chain: to}}}}
	}
	plans := kernel.Set{Name: "plans", Key: []kernel.Type{kernel.TypePriority}, Value: []kernel.Type{kernel.TypeVerdict}}
	filled := plans
	filled.Elements = []kernel.Element{{Key: []kernel.Datum{{Number: 1}}, Value: []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: "a"}}}}}
	lookup := []kernel.Rule{{Exprs: []kernel.Expr{kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldPriority}, Map: "plans"}}}}
	tests := map[string]struct {
		table kernel.Table
		want  error
	}{
		"verdict to nowhere":        {kernel.Table{Chains: []kernel.Chain{{Name: "a", Rules: jump("b")}}}, syscall.ENOENT},
		"verdict to a base chain":   {kernel.Table{Chains: []kernel.Chain{{Name: "a", Rules: jump("b")}, {Name: "b", Hook: &kernel.Hook{}}}}, syscall.EOPNOTSUPP},
		"element to nowhere":        {kernel.Table{Sets: []kernel.Set{filled}}, syscall.ENOENT},
		"round and round":           {kernel.Table{Sets: []kernel.Set{filled}, Chains: []kernel.Chain{{Name: "a", Rules: lookup}}}, syscall.ELOOP},
		"set that is not there":     {kernel.Table{Chains: []kernel.Chain{{Name: "a", Rules: lookup}}}, syscall.ENOENT},
		"set for packets to change": {kernel.Table{Sets: []kernel.Set{plans}, Chains: []kernel.Chain{{Name: "a", Rules: []kernel.Rule{{Exprs: []kernel.Expr{kernel.Update{Set: "plans"}}}}}}}, syscall.EINVAL},
		"limit without burst":       {kernel.Table{Chains: []kernel.Chain{{Name: "a", Rules: []kernel.Rule{{Exprs: []kernel.Expr{kernel.Limit{Rate: 1}}}}}}}, syscall.EINVAL},
		"long log prefix": {kernel.Table{Chains: []kernel.Chain{{Name: "a", Rules: []kernel.Rule{{Exprs: []kernel.Expr{
			kernel.Log{Prefix: strings.Repeat("x", 128)}}}}}}}, syscall.EINVAL},
		"good": {kernel.Table{Sets: []kernel.Set{filled}, Chains: []kernel.Chain{{Name: "a"}, {Name: "b", Rules: lookup}}}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tables := kerneltest.NewTables()
			tc.table.Name = "twill-test"
			if err := tables.SyncTables(t.Context(), []kernel.Table{tc.table}, nil); !errors.Is(err, tc.want) {
				t.Errorf("have %v, want %v", err, tc.want)
			}
			if (tables.Dump() == "") != (tc.want != nil) {
				t.Errorf("have %q", tables.Dump())
			}
		})
	}
}
