package dnat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/proxy/service"
)

// weighted returns endpoints 10.0.0.1 and following with these weights.
func weighted(weights ...uint32) (out []service.Endpoint) {
	for i, w := range weights {
		a := netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)})
		out = append(out, service.Endpoint{Addr: netip.AddrPortFrom(a, 8080), Weight: w})
	}
	return out
}

func ones(n int) []service.Endpoint {
	w := make([]uint32, n)
	for i := range w {
		w[i] = 1
	}
	return weighted(w...)
}

// list takes slots apart.
func list(s slots) (out []netip.AddrPort) {
	for i := 0; i < len(s); i += width(false) {
		out = append(out, target(string(s[i:i+width(false)])))
	}
	return out
}

func shares(s slots) map[netip.AddrPort]int {
	out := map[netip.AddrPort]int{}
	for _, at := range list(s) {
		out[at]++
	}
	return out
}

func TestSharesFollowWeights(t *testing.T) {
	tests := []struct {
		name      string
		scheduler service.Scheduler
		endpoints []service.Endpoint
		want      []int // slots of each endpoint
	}{
		{"equal", service.Random, weighted(1, 1, 1), []int{1, 1, 1}},
		{"equal and large", service.Random, weighted(700, 700), []int{1, 1}},
		{"common divisor", service.Random, weighted(10, 20, 30), []int{1, 2, 3}},
		{"rr takes no weights", service.RoundRobin, weighted(1, 5), []int{1, 1}},
		{"wrr", service.WeightedRR, weighted(5, 1, 1), []int{5, 1, 1}},
		{"too many slots", service.Random, weighted(1, 8191), []int{1, 4095}},
		{"everybody has one", service.SourceHash, weighted(1, 1, 4000000000), []int{1, 1, 4094}},
		{"no weight is one", service.Random, weighted(0, 2), []int{1, 2}},
		{"steered: as many slots whatever the weights", service.LeastConnections, weighted(1, 3), []int{8, 24}},
		{"steered, equal", service.NeverQueue, weighted(7, 7), []int{16, 16}},
		{"steered, odd", service.ShortestDelay, weighted(1, 1, 1), []int{22, 21, 21}},
		{"twice the same", service.Random, append(ones(2), ones(2)...), []int{1, 1}},
		{"more endpoints than slots", service.Random, ones(5000), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := assigner{}
			have := shares(a.assign("", test.scheduler, test.endpoints))
			for i, e := range test.endpoints {
				want := 1
				if i < len(test.want) {
					want = test.want[i]
				} else if test.want != nil {
					continue
				}
				if have[e.Addr] != want {
					t.Errorf("%v of weight %d has %d slots, want %d", e.Addr, e.Weight, have[e.Addr], want)
				}
			}
		})
	}
}

// TestFewSlotsChange counts what is written when one of many endpoints comes or goes.
func TestFewSlotsChange(t *testing.T) {
	for _, n := range []int{2, 5, 17, 1000} {
		a := assigner{}
		all := ones(n)
		before := a.assign("", service.Random, all)
		for _, gone := range []int{0, n / 2, n - 1} {
			rest := append(append([]service.Endpoint{}, all[:gone]...), all[gone+1:]...)
			after := a.assign(before, service.Random, rest)
			changed := 0
			old := list(before)
			for i, at := range list(after) {
				if at != old[i] {
					changed++
				}
			}
			if want := min(1, n-1-gone); changed > want || len(list(after)) != n-1 {
				t.Errorf("%d endpoints, number %d gone: %d slots changed of %d, want %d", n, gone, changed, len(list(after)), want)
			}
			if back := a.assign(after, service.Random, all); back[:len(after)] != after || len(back) != len(before) {
				t.Errorf("%d endpoints: one that comes moves others", n)
			}
		}
	}
}

func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	a := assigner{}
	longest, last := 0, netip.AddrPort{}
	run := 0
	round := list(a.assign("", service.WeightedRR, weighted(4, 2, 1)))
	for _, at := range append(round, round...) {
		if at != last {
			run, last = 0, at
		}
		run++
		longest = max(longest, run)
	}
	if longest > 2 {
		t.Errorf("one endpoint has %d turns in a row: %v", longest, round)
	}
}

func TestMaglevMovesFewFlows(t *testing.T) {
	for _, n := range []int{2, 3, 10, 50, 150, 400} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			a := assigner{}
			all := ones(n)
			before := a.assign("", service.Maglev, all)
			least, most := len(before), 0
			for _, count := range shares(before) {
				least, most = min(least, count), max(most, count)
			}
			if most-least > 1 {
				t.Errorf("shares from %d to %d slots", least, most)
			}
			gone := rand.IntN(n)
			after := a.assign(before, service.Maglev, append(append([]service.Endpoint{}, all[:gone]...), all[gone+1:]...))
			if len(before) != len(after) {
				t.Fatalf("table of %d slots becomes one of %d", len(list(before)), len(list(after)))
			}
			moved, old, now := 0, list(before), list(after)
			for i := range old {
				if old[i] != now[i] {
					moved++
				}
			}
			size := len(old)
			t.Logf("%d of %d slots moved", moved, size)
			if moved*n > 2*size+2*n && moved*40 > size {
				t.Errorf("%d of %d slots moved when one of %d endpoints went", moved, size, n)
			}
			rand.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
			if a.assign("", service.Maglev, all) != before {
				t.Error("the table depends on the order of endpoints")
			}
		})
	}
}

func TestMaglevWeights(t *testing.T) {
	a := assigner{}
	have := shares(a.assign("", service.Maglev, weighted(1, 3)))
	one, three := have[weighted(1)[0].Addr], have[weighted(1, 3)[1].Addr]
	if r := float64(three) / float64(one); r < 2.8 || r > 3.2 {
		t.Errorf("weights 1 and 3 have %d and %d slots", one, three)
	}
}

func TestMembersAreTheEndpointsOwn(t *testing.T) {
	a := assigner{}
	of := func(endpoints []service.Endpoint) map[string]uint32 {
		out := map[string]uint32{}
		for _, m := range members(a.assign("", service.Random, endpoints), false, false) {
			out[m.endpoint] = m.number
		}
		return out
	}
	all := of(ones(3000))
	numbers := map[uint32]bool{}
	for _, n := range all {
		numbers[n] = true
		if n&scratchBit == 0 || n&insideBit != 0 {
			t.Fatalf("number %x", n)
		}
	}
	if len(numbers) != 3000 {
		t.Errorf("%d numbers for 3000 endpoints", len(numbers))
	}
	for endpoint, n := range of(ones(3000)[1000:]) {
		if all[endpoint] != n {
			t.Errorf("%v had number %x, and has %x when others are gone", target(endpoint), all[endpoint], n)
		}
	}
}
