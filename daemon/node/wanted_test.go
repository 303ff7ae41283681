package node

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

func TestReached(t *testing.T) {
	lease := func(subnets ...string) *store.Lease {
		l := &store.Lease{}
		for _, text := range subnets {
			if p := netip.MustParsePrefix(text); p.Addr().Is4() {
				l.Subnet = p
			} else {
				l.IPv6Subnet = p
			}
		}
		return l
	}
	way := func(dst string, kind kernel.RouteType) *kernel.Fragment {
		return &kernel.Fragment{Routes: []kernel.Route{{Dst: netip.MustParsePrefix(dst), Type: kind}}}
	}
	self := lease("10.5.1.0/24", "fd00:1::/64")
	for _, tt := range []struct {
		name      string
		leases    []*store.Lease
		fragments []*kernel.Fragment
		want      int
	}{
		{"alone", []*store.Lease{self}, []*kernel.Fragment{way("10.5.1.0/24", kernel.Blackhole)}, 0},
		{"one, and networks of others", []*store.Lease{self, lease("10.5.2.0/24")}, []*kernel.Fragment{way("10.5.2.0/24", 0), way("198.51.100.0/24", 0), way("203.0.113.7/32", 0)}, 1},
		{"one family lacks", []*store.Lease{self, lease("10.5.2.0/24", "fd00:2::/64")}, []*kernel.Fragment{way("10.5.2.0/24", 0)}, 0},
		{"both families", []*store.Lease{self, lease("10.5.2.0/24", "fd00:2::/64")}, []*kernel.Fragment{way("10.5.2.0/24", 0), way("fd00:2::/64", 0)}, 1},
		{"an aggregate", []*store.Lease{self, lease("10.5.2.0/24"), lease("10.5.3.0/24")}, []*kernel.Fragment{way("10.5.0.0/16", 0)}, 2},
		{"a part", []*store.Lease{self, lease("10.5.2.0/24")}, []*kernel.Fragment{way("10.5.2.0/25", 0)}, 0},
		{"a dead end", []*store.Lease{self, lease("10.5.2.0/24")}, []*kernel.Fragment{way("10.5.2.0/24", kernel.Unreachable)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (&Wanted{Fragments: tt.fragments, Leases: tt.leases, Self: self}).Reached(); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}
