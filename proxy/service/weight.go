package service

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/store"
)

// MaxWeight is the largest weight, as with IPVS. Weights above it are taken for it.
const MaxWeight = 65535

// weights are a Service's: of addresses, nodes and zones. Nil: all weigh 1.
//
// An endpoint that weighs 0 gets no new connections. It counts as not there in every respect, so that others, be they terminating or in
// another zone, are chosen as if it had gone; connections that it has are not touched. Where all weigh 0, nobody answers, as with IPVS.
type weights map[string]uint32

// lookup returns what the endpoint weighs: its address decides, else its node, else its zone.
func (w weights) lookup(e *endpoint) uint32 {
	if len(w) == 0 {
		return 1
	}
	for _, key := range [...]string{e.addr.String(), text(e.node), text(e.zone)} {
		if weight, ok := w[key]; ok && key != "" {
			return min(weight, MaxWeight)
		}
	}
	return 1
}

// weighted reports whether the scheduler takes weights. The others treat endpoints alike, as their namesakes in IPVS do.
func (s Scheduler) weighted() bool { return s != RoundRobin && s != DestinationHash }

// schedule returns how svc's endpoints are chosen and what they weigh, with warnings about wishes that cannot be met.
func (r *resolver) schedule(svc *store.Service) (s Scheduler, warnings []string) {
	s = r.Scheduler
	if s == "" {
		s = Schedulers()[0]
	}
	switch chosen := Scheduler(svc.Scheduler); {
	case chosen == "":
	case slices.Contains(Schedulers(), chosen):
		s = chosen
	default:
		warnings = append(warnings, fmt.Sprintf("scheduler %q is unknown, %s is used: choose one of %s", svc.Scheduler, s, schedulerNames()))
	}
	if svc.AffinityTimeout > 0 && (s == DestinationHash || s == Maglev) {
		warnings = append(warnings, fmt.Sprintf("session affinity goes before scheduler %s: "+
			"a client stays with its endpoint on one node, but nodes need not agree on it any more", s))
	}
	return s, append(warnings, weightWarnings(svc.Weights, s)...)
}

func schedulerNames() string {
	var names []string
	for _, s := range Schedulers() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func weightWarnings(w weights, s Scheduler) []string {
	if len(w) == 0 {
		return nil
	}
	var warnings []string
	differ := false
	for _, key := range slices.Sorted(maps.Keys(w)) {
		if w[key] > MaxWeight {
			warnings = append(warnings, fmt.Sprintf("weight %d of %s is more than %d, which is used", w[key], key, MaxWeight))
		}
		if c := canonical(key); c != key {
			warnings = append(warnings, fmt.Sprintf("weight of %s has no effect: the address is written %s", key, c))
		}
		differ = differ || w[key] > 1
	}
	if differ && !s.weighted() {
		warnings = append(warnings, fmt.Sprintf("scheduler %s takes no weights: only 0 has an effect", s))
	}
	return warnings
}

// canonical returns an address as endpoints' are written, and anything else as it is.
func canonical(key string) string {
	if a, err := netip.ParseAddr(key); err == nil {
		return a.Unmap().String()
	}
	return key
}

// unmatched warns of weights that are no endpoint's.
func (w weights) unmatched(from []*slice) []string {
	if len(w) == 0 {
		return nil
	}
	known, any := map[string]bool{}, false
	for _, s := range from {
		for i := range s.endpoints {
			e := &s.endpoints[i]
			any = true
			known[e.addr.String()], known[text(e.node)], known[text(e.zone)] = true, true, true
		}
	}
	var warnings []string
	for _, key := range slices.Sorted(maps.Keys(w)) {
		if any && !known[key] && canonical(key) == key {
			warnings = append(warnings, fmt.Sprintf("weight of %s has no effect now: no endpoint has that address, node or zone", key))
		}
	}
	return warnings
}
