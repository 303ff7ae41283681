//go:build linux

package main

import (
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/ipam"
)

func TestUsedOf(t *testing.T) {
	addr := netip.MustParseAddr
	rng := func(first, last, gateway string) ipam.Range {
		r := ipam.Range{First: addr(first), Last: addr(last)}
		if gateway != "" {
			r.Gateway = addr(gateway)
		}
		return r
	}
	lease := func(all ...string) ipam.Lease {
		var l ipam.Lease
		for _, a := range all {
			l.Addresses = append(l.Addresses, ipam.Address{Prefix: netip.MustParsePrefix(a)})
		}
		return l
	}
	one := rng("10.1.1.1", "10.1.1.254", "10.1.1.1")
	tests := []struct {
		name   string
		sets   []ipam.RangeSet
		leases []ipam.Lease
		want   []api.RangeUse
	}{
		{"no ranges", nil, []ipam.Lease{lease("10.1.1.2/24")}, []api.RangeUse{}},
		{"empty, without the gateway", []ipam.RangeSet{{one}}, nil, []api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Size: 253}}},
		{"the gateway is elsewhere", []ipam.RangeSet{{rng("10.1.1.10", "10.1.1.19", "10.1.1.1")}}, nil, []api.RangeUse{{Range: "10.1.1.10-10.1.1.19", Size: 10}}},
		{"no gateway", []ipam.RangeSet{{rng("10.1.1.1", "10.1.1.1", "")}}, []ipam.Lease{lease("10.1.1.1/32")}, []api.RangeUse{{Range: "10.1.1.1-10.1.1.1", Used: 1, Size: 1}}},
		{"leases, one of an address that is none of the range", []ipam.RangeSet{{one}}, []ipam.Lease{lease("10.1.1.2/24"), lease("10.1.1.254/24"), lease("10.1.2.2/24"), lease()},
			[]api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Used: 2, Size: 253}}},
		{"two families", []ipam.RangeSet{{one}, {rng("fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1")}}, []ipam.Lease{lease("10.1.1.2/24", "fd00::2/64")},
			[]api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Used: 1, Size: 253}, {Range: "fd00::1-fd00::ffff:ffff:ffff:ffff", Used: 1, Size: math.MaxUint64 - 1}}},
		{"two ranges of a set", []ipam.RangeSet{{one, rng("10.1.9.1", "10.1.9.4", "10.1.9.1")}}, []ipam.Lease{lease("10.1.9.2/29")},
			[]api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Size: 253}, {Range: "10.1.9.1-10.1.9.4", Used: 1, Size: 3}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, usedOf(ipam.Config{Sets: tt.sets}, tt.leases)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
