package steer

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/proxy/service"
)

func TestWeights(t *testing.T) {
	const all = service.MaxWeight
	lasting := func(n float64) Load { return Load{Arrivals: n, Lasting: 1, Staying: 1} }
	tests := []struct {
		name      string
		scheduler service.Scheduler
		endpoints []Endpoint
		load      Load
		want      []uint32
	}{
		{"none", service.LeastConnections, nil, lasting(5), []uint32{}},
		{"even", service.LeastConnections, []Endpoint{{1, 3}, {1, 3}}, lasting(10), []uint32{32768, 32768}},
		{"one is behind", service.LeastConnections, []Endpoint{{1, 10}, {1, 0}}, lasting(10), []uint32{1, all}},
		{"it catches up in the interval", service.LeastConnections, []Endpoint{{1, 10}, {1, 0}}, lasting(30), []uint32{21845, 43690}},
		{"by weight", service.LeastConnections, []Endpoint{{3, 30}, {1, 10}}, lasting(8), []uint32{49151, 16384}},
		{"short connections go by weight", service.LeastConnections, []Endpoint{{3, 90}, {1, 0}}, Load{Arrivals: 1000, Lasting: 0.01}, []uint32{49151, 16384}},
		{"nothing comes", service.LeastConnections, []Endpoint{{1, 5}, {1, 4}, {1, 4}}, Load{Staying: 1}, []uint32{7282, 29127, 29127}},
		{"nothing comes, and one is far behind", service.LeastConnections, []Endpoint{{1, 50}, {1, 4}, {1, 40}}, Load{Staying: 1}, []uint32{1, all, 1}},
		{"a burst may come", service.LeastConnections, []Endpoint{{1, 8}, {1, 0}}, Load{Staying: 1, Burst: 16}, []uint32{16384, 49151}},
		{"nq, all are idle", service.NeverQueue, []Endpoint{{9, 0}, {1, 0}}, Load{Staying: 1}, []uint32{32768, 32768}},
		{"sed prefers the strong one", service.ShortestDelay, []Endpoint{{3, 0}, {1, 0}}, lasting(1), []uint32{all, 1}},
		{"nq prefers the idle one", service.NeverQueue, []Endpoint{{9, 1}, {1, 0}}, lasting(1), []uint32{1, all}},
		{"nq has more than the idle take", service.NeverQueue, []Endpoint{{1, 1}, {1, 0}}, lasting(3), []uint32{21845, 43690}},
		{"no weight counts as 1", service.LeastConnections, []Endpoint{{0, 0}, {1, 0}}, lasting(1), []uint32{32768, 32768}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Weights(tt.scheduler, tt.endpoints, tt.load)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// simulate has connections come at a rate per interval and last for some intervals on average, and returns the greatest difference of
// connections between two of n endpoints, on average over the second half. The weights are set once an interval, or never.
func simulate(n, rate int, lasts float64, steered bool) float64 {
	random := rand.New(rand.NewPCG(1, uint64(rate)))
	open := make([][]float64, n) // the end of each connection
	weights := make([]uint32, n)
	for i := range weights {
		weights[i] = 1
	}
	const intervals = 200
	sum, prev := 0.0, 0
	for at := range intervals {
		total := uint32(0)
		for _, w := range weights {
			total += w
		}
		fresh := 0
		for range rate {
			pick, i := random.Uint32N(total), 0
			for ; pick >= weights[i]; i++ {
				pick -= weights[i]
			}
			start := float64(at) + random.Float64()
			end := start + random.ExpFloat64()*lasts
			if end > float64(at+1) {
				open[i] = append(open[i], end)
				fresh++
			}
		}
		endpoints := make([]Endpoint, n)
		least, most, now := math.MaxInt, 0, 0
		for i := range open {
			kept := open[i][:0]
			for _, end := range open[i] {
				if end > float64(at+1) {
					kept = append(kept, end)
				}
			}
			open[i] = kept
			endpoints[i] = Endpoint{1, len(kept)}
			least, most, now = min(least, len(kept)), max(most, len(kept)), now+len(kept)
		}
		if at >= intervals/2 {
			sum += float64(most-least) / (intervals / 2)
		}
		if steered {
			staying := 1.0
			if prev > 0 {
				staying = float64(now-fresh) / float64(prev)
			}
			weights = Weights(service.LeastConnections, endpoints, Load{Arrivals: float64(rate), Lasting: float64(fresh) / float64(rate), Staying: staying})
		}
		prev = now
	}
	return sum
}

func TestBalance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		n     int
		rate  int
		lasts float64
		most  float64 // of what chance alone gives
	}{
		{"long", 5, 100, 1000, 0.25},
		{"tens of intervals", 5, 1000, 30, 0.35},
		{"about an interval", 5, 1000, 1, 1.1},
		{"far below an interval", 5, 10000, 0.01, 1.1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			steered, chance := simulate(tt.n, tt.rate, tt.lasts, true), simulate(tt.n, tt.rate, tt.lasts, false)
			t.Logf("greatest difference %.1f connections, by chance %.1f", steered, chance)
			if steered > tt.most*chance {
				t.Errorf("greatest difference %.1f, want at most %.0f%% of %.1f", steered, 100*tt.most, chance)
			}
		})
	}
}
