package dnat

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPacketsGoWhereTheTracerSays sends connections through the kernel for every scenario.
func TestPacketsGoWhereTheTracerSays(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			r.serve()
			for _, s := range scenarios() {
				r.set(svc("it", s.frontends(f)...))
				for client := range s.want {
					place, src := r.clients, f.at(client).Addr()
					want := s.targets(f, client)
					switch {
					case want[0] == "pass":
						continue // to nowhere
					case client == theNode:
						place = r.node
					case client == localPod && s.name == "a pod that reaches itself":
						place = r.servers
					case client == localPod:
						src = f.addr("10.1.1.8")
					}
					have, tries := map[string]bool{}, 20*len(want)
					if want[0] == "drop" {
						tries = 1
					}
					for range tries {
						have[place.reach(src, f.at(s.to))] = true
					}
					if d := cmp.Diff(want, slices.Sorted(maps.Keys(have))); d != "" {
						t.Errorf("%s: from %s (-want +have):\n%s", s.name, client, d)
					}
				}
			}
		})
	}
}
