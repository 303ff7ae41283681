package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
)

func lease(pod, addr string) api.AddressLease {
	l := api.AddressLease{Container: "0123456789abcdef", Interface: "eth0", Pod: pod, Attached: true}
	for _, a := range strings.Fields(addr) {
		l.Addresses = append(l.Addresses, netip.MustParseAddr(a))
	}
	return l
}

func with(l api.AddressLease, change func(*api.AddressLease)) api.AddressLease {
	change(&l)
	return l
}

func TestCheck(t *testing.T) {
	dead := with(lease("shop/web", "10.1.1.2 fd00:1::2"), func(l *api.AddressLease) { l.NetnsGone, l.Attached = true, false })
	half := with(lease("", "10.1.1.3"), func(l *api.AddressLease) { l.Attached = false })
	foreign := with(lease("shop/old", "10.9.9.9"), func(l *api.AddressLease) { l.Outside = true })
	tests := []struct {
		name  string
		nodes []api.AddressReport
		want  []string
	}{
		{"nothing", nil, nil},
		{"all is well", []api.AddressReport{
			{Node: "a", Ranges: []api.RangeUse{{Range: "r", Used: 89, Size: 100}}, Leases: []api.AddressLease{lease("shop/web", "10.1.1.2")}},
			{Node: "b", Ranges: []api.RangeUse{{Range: "s"}}, Leases: []api.AddressLease{lease("shop/web", "10.1.2.2")}},
		}, nil},
		{"a dead pod", []api.AddressReport{{Node: "a", ReleaseDelay: 30, Leases: []api.AddressLease{dead}}},
			[]string{"degraded a: pod shop/web holds 10.1.1.2 and fd00:1::2, and its network namespace is gone: twilld releases it 30 s after"}},
		{"half of an ADD", []api.AddressReport{{Node: "a", Leases: []api.AddressLease{half}}},
			[]string{"notice a: container 0123456789ab eth0 holds 10.1.1.3, and is not attached"}},
		{"of another subnet", []api.AddressReport{{Node: "a", Leases: []api.AddressLease{foreign}}},
			[]string{"degraded a: pod shop/old holds 10.9.9.9, which is in none of the node's ranges"}},
		{"nearly full", []api.AddressReport{{Node: "a", Ranges: []api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Used: 228, Size: 253}}}},
			[]string{"degraded a: 228 of the 253 addresses 10.1.1.1-10.1.1.254 are taken"}},
		{"full", []api.AddressReport{{Node: "a", Ranges: []api.RangeUse{{Range: "10.1.1.1-10.1.1.2", Used: 2, Size: 2}}}},
			[]string{"broken a: all 2 addresses 10.1.1.1-10.1.1.2 are taken"}},
		{"no lease, and twice", []api.AddressReport{
			{Node: "a", Leases: []api.AddressLease{half}, Unleased: []api.AddressLease{lease("shop/lost", "10.1.1.7")}},
			{Node: "b", Leases: []api.AddressLease{lease("shop/other", "10.1.1.7")}},
		}, []string{
			"broken a: pod shop/lost has 10.1.1.7, of which there is no lease",
			"broken 10.1.1.7 is pod shop/lost on a, and pod shop/other on b: start both pods anew",
			"notice a: container 0123456789ab",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var have []string
			for _, f := range Check(tt.nodes) {
				have = append(have, f.Severity.String()+" "+f.String())
			}
			if diff := cmp.Diff(tt.want, have, cmp.Comparer(func(want, have string) bool {
				return strings.HasPrefix(have, want) || strings.HasPrefix(want, have)
			})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
