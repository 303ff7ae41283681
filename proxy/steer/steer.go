package steer

import (
	"cmp"
	"math"
	"slices"

	"github.com/twill-cni/twill/proxy/service"
)

// Endpoint is what is known of one.
type Endpoint struct {
	Weight uint32 // its author's; 0 counts as 1
	Open   int    // connections
}

// Load is what is expected of the next interval.
type Load struct {
	Arrivals float64 // connections that come
	Lasting  float64 // what part of those is open at its end, 0 to 1
	Staying  float64 // what part of the connections that are open now is open at its end, 0 to 1
	Burst    float64 // connections that may come beyond what is expected, and last
}

// Steers reports whether a scheduler goes by connections.
func Steers(s service.Scheduler) bool {
	return s == service.LeastConnections || s == service.ShortestDelay || s == service.NeverQueue
}

// Weights returns what each endpoint is to weigh, from 1 to service.MaxWeight, in the order of endpoints.
func Weights(s service.Scheduler, endpoints []Endpoint, l Load) []uint32 {
	base := make([]float64, len(endpoints))
	gets := make([]float64, len(endpoints))
	idle := 0
	for i, e := range endpoints {
		base[i] = l.Staying * float64(e.Open)
		if s != service.LeastConnections {
			base[i]++ // the one to come counts
		}
		if e.Open == 0 {
			idle++
		}
	}
	// When next to nothing is expected, as much is made up for as there are endpoints: a burst that nobody expected must not all go to the one
	// that is behind by a single connection.
	least := len(endpoints)
	if s == service.NeverQueue && idle > 0 {
		least = idle
	}
	amount := max(float64(least), l.Arrivals*l.Lasting, l.Burst)
	if s == service.NeverQueue && idle > 0 {
		first := min(1, amount/float64(idle))
		for i, e := range endpoints {
			if e.Open == 0 {
				gets[i] = first
				base[i] += first
			}
		}
		amount -= first * float64(idle)
	}
	fill(endpoints, base, gets, amount)
	sum := 0.0
	for _, g := range gets {
		sum += g
	}
	out := make([]uint32, len(endpoints))
	for i, g := range gets {
		out[i] = max(1, uint32(math.Round(g/sum*service.MaxWeight)))
	}
	return out
}

// fill adds amount to gets so that base + gets is the same for all in proportion to their weights, but for those that have more already.
func fill(endpoints []Endpoint, base, gets []float64, amount float64) {
	if amount <= 0 {
		return
	}
	weight := func(i int) float64 { return float64(max(1, endpoints[i].Weight)) }
	order := make([]int, len(endpoints))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(base[a]/weight(a), base[b]/weight(b)) })
	bases, weights, level := amount, 0.0, math.Inf(1)
	for _, i := range order {
		if base[i]/weight(i) >= level {
			break
		}
		bases += base[i]
		weights += weight(i)
		level = bases / weights
	}
	for i := range endpoints {
		gets[i] += max(0, weight(i)*level-base[i])
	}
}
