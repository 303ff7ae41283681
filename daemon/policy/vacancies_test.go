package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
)

// An address is clean when nobody had it since long before the last look at connections.
func TestVacancies(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	a, b := kernel.PodOwner{ContainerID: "a", IfName: "eth0"}, kernel.PodOwner{ContainerID: "b", IfName: "eth0"}
	has := func(owners ...kernel.PodOwner) map[kernel.PodOwner][]netip.Addr {
		all := map[kernel.PodOwner][]netip.Addr{}
		for _, o := range owners {
			all[o] = daemontest.Addrs("10.1.1.2", "fd00:1:1::2")
		}
		return all
	}
	type step func(v *vacancies)
	written := func(s float64, owners ...kernel.PodOwner) step {
		return func(v *vacancies) { v.written(at(s), has(owners...)) }
	}
	looked := func(s float64) step { return func(v *vacancies) { v.looked(at(s)) } }
	doubt := func(s float64) step { return func(v *vacancies) { v.doubt(at(s)) } }
	tests := []struct {
		name  string
		steps []step
		clean bool
	}{
		{"nobody had it", []step{written(0)}, true},
		{"its first owner", []step{written(0), written(1, a)}, true},
		{"its owner left", []step{written(0, a), written(1)}, false},
		{"another has it at once", []step{written(0, a), written(1, b)}, false},
		{"another has it later", []step{written(0, a), written(1), written(2, b)}, false},
		{"a look came too soon", []step{written(0, a), written(1), looked(5.9), written(7, b)}, false},
		{"looked at", []step{written(0, a), written(1), looked(6), written(7, b)}, true},
		{"looked at before it left", []step{written(0, a), looked(6), written(7)}, false},
		{"it left twice", []step{written(0, a), written(1), written(2, a), written(3), looked(6)}, false},
		{"two had it, and one has left", []step{written(0, a, b), written(1, b)}, false},
		{"one comes to it beside another", []step{written(0, a), written(1, a, b)}, false},
		{"the start", []step{doubt(0), written(0)}, false},
		{"after the start", []step{doubt(0), written(0), looked(4), looked(6)}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v vacancies
			for _, step := range tt.steps {
				step(&v)
			}
			if have := v.clean(daemontest.Addrs("fd00:1:1::2")); have != tt.clean {
				t.Errorf("clean: %t", have)
			}
			if !v.clean(daemontest.Addrs("10.1.1.9")) && v.doubted.IsZero() {
				t.Error("an address that nobody had is not clean")
			}
		})
	}
}
