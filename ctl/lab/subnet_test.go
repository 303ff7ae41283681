package lab

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestNodeAddrs(t *testing.T) {
	for _, subnets := range []int{1, 2, 3, maxSubnets} {
		t.Run(fmt.Sprintf("%d subnets", subnets), func(t *testing.T) {
			o := Options{Subnets: subnets}
			seen := map[netip.Addr]bool{gatewayV4.Addr(): true, gatewayV6.Addr(): true}
			for _, s := range o.subnets() {
				seen[s.v4.Addr()], seen[s.v6.Addr()] = true, true
			}
			for number := 1; number <= o.maxNodes(); number++ {
				v4, v6 := o.nodeAddrs(number)
				s := o.subnet(o.subnetOf(number))
				if seen[v4] || seen[v6] || !s.v4.Contains(v4) || !s.v6.Contains(v6) {
					t.Fatalf("node %d: %v and %v are taken or outside the subnet %+v", number, v4, v6, s)
				}
				seen[v4], seen[v6] = true, true
			}
		})
	}
}

func TestNodeAddrsAreReadable(t *testing.T) {
	tests := []struct {
		subnets, number int
		want            string
	}{
		{1, 1, "172.30.1.1 fd00:30::1:1"},
		{1, 250, "172.30.1.250 fd00:30::1:fa"},
		{1, 251, "172.30.2.1 fd00:30::2:1"},
		{2, 1, "172.30.1.1 fd00:30:0:1::1"},
		{2, 2, "172.30.2.1 fd00:30:0:2::1"},
		{2, 3, "172.30.1.2 fd00:30:0:1::2"},
		{2, 500, "172.30.2.250 fd00:30:0:2::fa"},
	}
	for _, tt := range tests {
		if v4, v6 := (Options{Subnets: tt.subnets}).nodeAddrs(tt.number); v4.String()+" "+v6.String() != tt.want {
			t.Errorf("node %d of %d subnets: %v %v, want %s", tt.number, tt.subnets, v4, v6, tt.want)
		}
	}
}

func TestSubnetsDoNotOverlap(t *testing.T) {
	all := Options{Subnets: maxSubnets}.subnets()
	for i, a := range all {
		if a.v4.Contains(gatewayV4.Addr()) || a.v6.Contains(gatewayV6.Addr()) {
			t.Errorf("%+v holds the router's own address", a)
		}
		for _, b := range all[:i] {
			if a.v4.Overlaps(b.v4) || a.v6.Overlaps(b.v6) || a.bridge == b.bridge {
				t.Errorf("%+v and %+v overlap", a, b)
			}
		}
	}
}
