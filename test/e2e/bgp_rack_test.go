package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// Nodes of two racks that know each other from two reflectors and have the router between the racks as a peer: pods reach each other without
// encapsulation, the router knows where they are, and a reflector that is killed costs the others no packet, neither when it is gone for good
// nor when it comes back.
func TestBGPTopOfRackAndReflectors(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 4, Subnets: 2, Family: lab.DualStack, PodsPerNode: 1, Routing: lab.Routing{ToR: true, Reflectors: 2}})
	nodes, pods := l.Nodes(), l.Pods()
	// For how long its routes are kept when the daemon is gone; the default would make this a long test.
	text, err := os.ReadFile(nodes[0].BGPConfigFile())
	must(t, err)
	must(t, nodes[0].StopDaemon(t.Context()))
	must(t, nodes[0].SetBGPConfig(append(text, "gracefulRestart: {restartTime: 4s}\n"...)))
	must(t, nodes[0].StartDaemon())
	must(t, nodes[0].Ready(t.Context()))
	calm := func() {
		t.Helper()
		for i, n := range nodes {
			within(t, 2*enough, func() error {
				var up []string
				for _, s := range sessions(t, n) {
					if s.Established() && s.EndOfRIB {
						up = append(up, s.Name)
					}
				}
				want := []string{"node node1", "node node2", "tor"}
				if i < 2 { // the reflectors
					want = []string{"node node1", "node node2", "node node3", "node node4", "tor"}
				}
				want = slices.DeleteFunc(want, func(name string) bool { return name == "node "+n.Name })
				if slices.Sort(up); !slices.Equal(up, want) {
					return fmt.Errorf("%s has sessions with %v, want %v", n.Name, up, want)
				}
				return nil
			})
		}
	}
	calm()
	converged(t, l, recovery)
	wantMatrix(t, l)
	if links := sh(t, nodes[2].Netns(), "ip -o link show"); strings.Contains(links, "flannel") {
		t.Errorf("links:\n%s", links)
	}
	known := func() error {
		routes, err := trySh(t.Context(), l.Underlay(), "ip -4 route show proto 84; ip -6 route show proto 84")
		for _, n := range nodes {
			subnets := strings.Split(strings.ReplaceAll(subnetOf(t, l, n), "-", "/"), "&")
			for i, subnet := range subnets {
				if way := fmt.Sprintf("%s via %s dev br%d ", subnet, address(t, n, i == 1), n.Subnet()); err == nil && !strings.Contains(routes, way) {
					err = fmt.Errorf("the router has no %q among\n%s", way, routes)
				}
			}
		}
		return err
	}
	within(t, enough, known)

	var streams []*load
	for i := range pods {
		for j := range pods {
			if i != j && i > 0 && j > 0 {
				streams = append(streams, startLoad(t, pods[i], addr(t, pods[j], (i+j)%2 == 0), 5*time.Millisecond))
			}
		}
	}
	gone := subnetOf(t, l, nodes[0])
	gone = gone[:strings.IndexByte(gone, '&')]
	must(t, nodes[0].KillDaemon(t.Context()))
	for _, n := range nodes[1:] {
		within(t, enough, hasRoute(t, n, gone, false)) // it was given up
	}
	must(t, nodes[0].StartDaemon())
	must(t, nodes[0].Ready(t.Context()))
	calm()
	for _, s := range streams {
		s.endWhole(t)
	}
	within(t, enough, known)
	converged(t, l, recovery)
	wantMatrix(t, l)
}
