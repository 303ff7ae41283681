package masquerade

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/kernel"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// elements returns the prefixes of each set of the table.
func elements(t kernel.Table) map[string][]string {
	sets := make(map[string][]string)
	for _, s := range t.Sets {
		sets[s.Name] = []string{}
		for _, e := range s.Elements {
			sets[s.Name] = append(sets[s.Name], e.Key[0].Prefix.String())
		}
	}
	return sets
}

func TestSets(t *testing.T) {
	tests := []struct {
		name  string
		cfg   Config
		want  map[string][]string
		rules int
	}{
		{"nothing", Config{}, map[string][]string{}, 0},
		{"IPv4", Config{Cluster: prefixes("10.5.0.0/16"), Local: prefixes("10.5.1.0/24")}, map[string][]string{
			"cluster-v4": {"10.5.0.0/16"}, "local-v4": {"10.5.1.0/24"}, "exempt-v4": {"224.0.0.0/4", "255.255.255.255/32"},
		}, 6},
		{"IPv6", Config{Cluster: prefixes("fd00::/48"), Local: prefixes("fd00::/64")}, map[string][]string{
			"cluster-v6": {"fd00::/48"}, "local-v6": {"fd00::/64"}, "exempt-v6": {"fe80::/10", "ff00::/8"},
		}, 6},
		{"dual stack with exemptions", Config{
			Cluster: prefixes("fd00::/48", "10.5.0.0/16"), Local: prefixes("10.5.1.0/24", "fd00::/64"),
			Exempt: prefixes("192.168.0.0/16", "2001:db8::/32"),
		}, map[string][]string{
			"cluster-v4": {"10.5.0.0/16"}, "local-v4": {"10.5.1.0/24"}, "exempt-v4": {"192.168.0.0/16", "224.0.0.0/4", "255.255.255.255/32"},
			"cluster-v6": {"fd00::/48"}, "local-v6": {"fd00::/64"}, "exempt-v6": {"2001:db8::/32", "fe80::/10", "ff00::/8"},
		}, 12},
		{"nested, repeated and with host bits", Config{
			Cluster: prefixes("10.1.0.0/16", "10.0.0.1/8", "10.2.0.0/16", "10.0.0.0/8", "11.0.0.0/8"),
		}, map[string][]string{
			"cluster-v4": {"10.0.0.0/8", "11.0.0.0/8"}, "local-v4": {}, "exempt-v4": {"224.0.0.0/4", "255.255.255.255/32"},
		}, 6},
		{"everything exempt", Config{Cluster: prefixes("10.5.0.0/16"), Exempt: prefixes("0.0.0.0/0")}, map[string][]string{
			"cluster-v4": {"10.5.0.0/16"}, "local-v4": {}, "exempt-v4": {"0.0.0.0/0"},
		}, 6},
		{"invalid prefix", Config{Cluster: []netip.Prefix{{}}}, map[string][]string{}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := Table(tt.cfg)
			if diff := cmp.Diff(tt.want, elements(table)); diff != "" {
				t.Error(diff)
			}
			if got := len(table.Chains[0].Rules); got != tt.rules {
				t.Errorf("%d rules, want %d", got, tt.rules)
			}
		})
	}
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	cfg := Config{
		Cluster: prefixes("10.5.0.0/16", "10.6.0.0/16", "fd00::/48", "fd01::/48"),
		Local:   prefixes("10.5.1.0/24", "10.6.1.0/24", "fd00::/64"),
		Exempt:  prefixes("192.168.0.0/16", "192.168.1.0/24", "172.16.0.0/12", "2001:db8::/32"),
	}
	want := Table(cfg)
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		for _, list := range [][]netip.Prefix{cfg.Cluster, cfg.Local, cfg.Exempt} {
			random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		}
		if diff := cmp.Diff(want, Table(cfg), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestInputIsLeftAlone(t *testing.T) {
	cluster := prefixes("10.6.0.0/16", "10.5.0.0/16")
	Table(Config{Cluster: cluster})
	if diff := cmp.Diff(prefixes("10.6.0.0/16", "10.5.0.0/16"), cluster, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
}
