package lab_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
)

func TestSubnetsAreJoinedByARouter(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			o := options(t, "routed")
			o.Family, o.Subnets, o.Nodes, o.PodsPerNode = family, 2, 3, 1
			l := up(t, o)
			if got := len(l.Subnets()); got != 2 {
				t.Errorf("there are %d subnets", got)
			}
			var subnets []int
			for _, from := range l.Nodes() {
				subnets = append(subnets, from.Subnet())
				for _, to := range l.Pods() {
					for _, a := range append(to.Addrs(), to.Node.Addrs()...) {
						if err := reach(t, from, a, patience); err != nil {
							t.Errorf("from %s to %s at %v: %v", from.Name, to.Name, a, err)
						}
					}
				}
			}
			if diff := cmp.Diff([]int{1, 2, 1}, subnets); diff != "" {
				t.Error(diff)
			}
			near, far := l.Nodes()[2].Addrs()[0], l.Nodes()[1].Addrs()[0]
			for to, routed := range map[netip.Addr]bool{near: false, far: true} {
				out, err := l.Nodes()[0].Command(context30(t), "ip", "route", "get", to.String()).Output()
				if err != nil || strings.Contains(string(out), " via ") != routed {
					t.Errorf("the way to %v is %s, %v; over the router: want %v", to, out, err, routed)
				}
			}
		})
	}
}
