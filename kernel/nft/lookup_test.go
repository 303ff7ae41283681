package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

func TestLookup(t *testing.T) {
	h, _ := open(t)
	id := kernel.SetID{Family: kernel.FamilyIPv4, Table: "twill-test", Set: "endpoints"}
	lookup := func(want []kernel.Entry, keys ...string) {
		t.Helper()
		found, err := h.Lookup(t.Context(), id, keys)
		if err != nil {
			t.Fatal(err)
		}
		var have []kernel.Entry
		for _, f := range found {
			have = append(have, f.Entry)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Error(diff)
		}
	}
	all := endpoints(0, 20)
	lookup(nil, keys(all)...) // no table
	syncTables(t, h, choosing(kernel.FamilyIPv4))
	lookup(nil, keys(all)...)
	entries(t, h, "endpoints")
	changeElements(t, h, setChange("endpoints", nil, all...))
	lookup([]kernel.Entry{all[3], all[0], all[19]}, all[3].Key, all[0].Key, endpoint(20, 0).Key, all[19].Key)
	if _, err := h.Lookup(t.Context(), id, []string{"short"}); err == nil {
		t.Error("a key of a wrong length is no error")
	}
}

func TestDifferences(t *testing.T) {
	table := ports(port(80, "10.5.1.7"))
	tests := map[string]struct {
		injury string
		want   []kernel.Difference
	}{
		"as it should be": {"", nil},
		"table deleted":   {"delete table inet twill-hostports", []kernel.Difference{{What: "table", Have: "nothing", Want: "1 chain and 2 sets"}}},
		"chain flushed":   {"flush chain inet twill-hostports prerouting", []kernel.Difference{{What: "chain prerouting", Have: "0 rules", Want: "1 rule"}}},
		"another rule": {"flush chain inet twill-hostports prerouting\nadd rule inet twill-hostports prerouting accept",
			[]kernel.Difference{{What: "chain prerouting", Have: "1 rule, other ones", Want: "1 rule"}}},
		"chain too many":   {"add chain inet twill-hostports more", []kernel.Difference{{What: "chain more", Have: "0 rules", Want: "nothing"}}},
		"element deleted":  {"delete element inet twill-hostports ports { tcp . 80 }", []kernel.Difference{{What: "set ports", Have: "0 elements, 0 wrong", Want: "1 element, 1 missing"}}},
		"element too many": {"add element inet twill-hostports ports { tcp . 99 : 10.5.1.7 . 80 }", []kernel.Difference{{What: "set ports", Have: "2 elements, 1 wrong", Want: "1 element, 0 missing"}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			desired := hostPorts()
			desired.Sets[0].Foreign, desired.Sets[0].Elements = false, table["ports"]
			syncTables(t, h, desired)
			if tc.injury != "" {
				nftScript(t, tc.injury)
			}
			other, log := openHere(t)
			have, err := other.Differences(desired)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, have); diff != "" {
				t.Error(diff)
			}
			wantWrites(t, log, 0)
		})
	}
}

// TestElementsMoveWhereTheyAreCounted is an upgrade: the set of an earlier version did not count, and packets must find its elements all along.
func TestElementsMoveWhereTheyAreCounted(t *testing.T) {
	for _, counted := range []bool{true, false} {
		h, _ := open(t)
		table := choosing(kernel.FamilyIPv4)
		services := func() *kernel.Set {
			for i := range table.Sets {
				if table.Sets[i].Name == "services" {
					return &table.Sets[i]
				}
			}
			t.Fatal("no set services")
			return nil
		}
		services().Counted = !counted
		syncTables(t, h, table)
		entries(t, h, "services")
		e := kernel.Entry{Key: endpoint(0, 0).Key[:12], Value: string(kernel.AppendNumber(nil, 5))}
		changeElements(t, h, setChange("services", nil, e))
		again, _ := openHere(t)
		services().Counted = counted
		syncTables(t, again, table)
		if diff := cmp.Diff(map[string]string{e.Key: e.Value}, entries(t, again, "services")); diff != "" {
			t.Error(diff)
		}
	}
}
