package proxy

import (
	"strings"
	"testing"
)

// oneAddress is claimed by two Services: the first has it, and the second gets it when the first goes.
func oneAddress(t *testing.T, r *rig, v variables) {
	external := inside("externalIPs: [$ext4, '$ext6']")
	first := external + backed("a")
	r.apply(t, v, first)
	other := r.vars(t, 70)
	for _, same := range []string{"ns", "ext4", "ext6"} {
		other[same] = v[same]
	}
	second := strings.NewReplacer("name: web", "name: zweb").Replace(external + backed("c"))
	r.apply(t, other, second)
	for range 2 {
		r.want(t, v, probe{"b", "tcp $ext:80", "a~"}, probe{"out1", "tcp $ext:80", "a~"})
		r.want(t, other, probe{"b", "tcp $vip:80", "c"})
		r.apply(t, v, inside("externalIPs: [$ext4, '$ext6'], publishNotReadyAddresses: true")) // a change does not make it younger
	}
	must(t, r.Delete(t.Context(), v.expand(t, first, "")))
	r.soon(t, other, probe{"b", "tcp $ext:80", "c~"}, probe{"out1", "tcp $ext:80", "c~"})
}
