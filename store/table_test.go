package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// lease returns the lease with number i of a node with number n.
func lease(i, n int) *Lease {
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	ip := netip.AddrFrom4([4]byte{192, byte(n >> 16), byte(n >> 8), byte(n)})
	return &Lease{Subnet: subnet, PublicIP: ip, BackendType: "vxlan", BackendData: []byte(`{"VNI":1}`)}
}

func leases(n int) []*Lease {
	all := make([]*Lease, n)
	for i := range all {
		all[i] = lease(i, i)
	}
	return all
}

func put(l *Lease) Change  { return Change{l.Subnets(), l} }
func drop(l *Lease) Change { return Change{Subnets: l.Subnets()} }

func TestMergeNothing(t *testing.T) {
	all := leases(5)
	for name, changes := range map[string][]Change{
		"no change":        nil,
		"the same content": {put(lease(2, 2)), put(lease(4, 4))},
		"delete of none":   {drop(lease(9, 9))},
		"there and back":   {put(lease(2, 7)), put(lease(2, 2)), put(lease(9, 9)), drop(lease(9, 9))},
	} {
		have := Merge(all, changes)
		if &have[0] != &all[0] || len(have) != len(all) {
			t.Errorf("%s: the slice is another one", name)
		}
	}
}

// Batches of random changes are compared with a map, whatever their order; what did not change is the same pointer.
func TestMergeAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var all []*Lease
	model := map[Subnets]*Lease{}
	for round := range 3000 {
		before := slices.Clone(all)
		old := all
		var changes []Change
		for range rng.IntN(8) {
			l := lease(rng.IntN(40), rng.IntN(3))
			if rng.IntN(3) == 0 {
				changes = append(changes, drop(l))
			} else {
				changes = append(changes, put(l))
			}
		}
		given := slices.Clone(changes)
		all = Merge(all, changes)
		after := map[Subnets]*Lease{}
		for k, l := range model {
			after[k] = l
		}
		for _, c := range changes {
			if c.Lease == nil {
				delete(after, c.Subnets)
			} else {
				after[c.Subnets] = c.Lease
			}
		}
		for k, l := range after {
			if l.Equal(model[k]) {
				after[k] = model[k]
			}
		}
		model = after
		if len(all) != len(model) || !slices.IsSortedFunc(all, func(a, b *Lease) int { return a.Subnets().Compare(b.Subnets()) }) {
			t.Fatalf("round %d: %d leases, want %d, sorted", round, len(all), len(model))
		}
		for _, l := range all {
			if model[l.Subnets()] != l {
				t.Fatalf("round %d: %s is another pointer than it should be", round, l.Key())
			}
		}
		if !slices.Equal(old, before) || !slices.Equal(changes, given) {
			t.Fatalf("round %d: an argument was changed", round)
		}
	}
}

func TestReplace(t *testing.T) {
	old := leases(4)
	same := []*Lease{lease(3, 3), lease(1, 1), lease(0, 0), lease(2, 2)}
	if have := Replace(old, same); &have[0] != &old[0] {
		t.Error("the same content yields another slice")
	}
	have := Replace(old, []*Lease{lease(5, 5), lease(2, 9), lease(1, 1), lease(0, 0)})
	if len(have) != 4 || have[0] != old[0] || have[1] != old[1] || have[2] == old[2] || have[2].PublicIP != lease(2, 9).PublicIP || have[3].Key() != lease(5, 5).Key() {
		t.Errorf("have %v", have)
	}
	if have := Replace(old, nil); len(have) != 0 {
		t.Errorf("have %v", have)
	}
	if Find(old, lease(2, 0).Subnets()) != old[2] || Find(old, lease(7, 0).Subnets()) != nil {
		t.Error("Find finds the wrong lease")
	}
}

func BenchmarkMerge(b *testing.B) {
	all := leases(20000)
	for _, k := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("%d-into-20000", k), func(b *testing.B) {
			var changes []Change
			for i := range k {
				changes = append(changes, put(lease(i*19, 1<<20+i)))
			}
			b.ReportAllocs()
			for b.Loop() {
				Merge(all, changes)
			}
		})
	}
}
