package deadend_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/deadend"
	"github.com/twill-cni/twill/kernel"
)

// text writes a table's sets with their elements, and how many rules drop.
func text(table kernel.Table) string {
	var b strings.Builder
	for _, s := range table.Sets {
		fmt.Fprintf(&b, "%s:", s.Name)
		for _, e := range s.Elements {
			fmt.Fprintf(&b, " %v", e.Key[0].Addr)
		}
		b.WriteString("\n")
	}
	for _, c := range table.Chains {
		fmt.Fprintf(&b, "%s %s %d: %d rules\n", c.Hook.Type, c.Hook.Hook, c.Hook.Priority, len(c.Rules))
	}
	return b.String()
}

func TestTable(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hosts []string
		want  string
	}{
		{"nothing", nil, "services-v4:\nservices-v6:\nfilter forward 0: 2 rules\n"},
		{
			"both families, in any order, twice", []string{"203.0.113.7/32", "2001:db8::7/128", "198.51.100.7/32", "203.0.113.7/32"},
			"services-v4: 198.51.100.7 203.0.113.7\nservices-v6: 2001:db8::7\nfilter forward 0: 2 rules\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var hosts []netip.Prefix
			for _, h := range tc.hosts {
				hosts = append(hosts, netip.MustParsePrefix(h))
			}
			if diff := cmp.Diff(tc.want, text(deadend.Table(hosts))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
