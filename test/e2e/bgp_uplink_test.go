package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// A node whose addresses change is reached at the new ones: its sessions are made anew, its announcements name the new next hop, and nothing of
// that touches the other nodes.
func TestBGPNodeAddressChanges(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	others := l.Nodes()[1:]
	bystanders := startLoad(t, l.Pods()[1], addr(t, l.Pods()[2], false), 5*time.Millisecond)
	moveFirst(t, l)
	for _, n := range l.Nodes() {
		established(t, n, len(others))
		within(t, recovery, func() error { return ready(t, n) })
	}
	for _, n := range others {
		within(t, recovery, func() error {
			routes := sh(t, n.Netns(), "ip -4 route show proto 84; ip -6 route show proto 84")
			for gone, now := range map[string]string{"via 172.30.1.1 ": "via 172.30.77.1 ", "via fd00:30::1:1 ": "via fd00:30::77:1 "} {
				if strings.Contains(routes, gone) || !strings.Contains(routes, now) {
					return fmt.Errorf("%s holds\n%s", n.Name, routes)
				}
			}
			return nil
		})
	}
	bystanders.endWhole(t)
	wantMatrix(t, l)
}

// Pods' links follow the uplink's MTU; routes stay.
func TestBGPUplinkMTUChanges(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	for _, mtu := range []int{1400, 9000} {
		must(t, l.SetMTU(mtu))
		for _, n := range l.Nodes() {
			within(t, recovery, func() error {
				env, err := os.ReadFile(n.SubnetFile())
				if err != nil {
					return err
				}
				if want := fmt.Sprintf("FLANNEL_MTU=%d\n", mtu); !strings.Contains(string(env), want) {
					return fmt.Errorf("%s: want %q in\n%s", n.Name, want, env)
				}
				return ready(t, n)
			})
		}
		wantMatrix(t, l)
	}
}

// A next hop that is not on the uplink's own network is reached by the host's routes. When one of those moves, so do the routes that were
// learned.
func TestBGPUnderlayRouteMoves(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 2, Subnets: 2, Routing: lab.Routing{Overlay: lab.OverlayNever}})
	node := l.Nodes()[0]
	held := func(gateway string) time.Duration {
		t.Helper()
		return within(t, time.Second, func() error {
			routes := sh(t, node.Netns(), "ip -4 route show proto 84")
			if !strings.Contains(routes, "via "+gateway+" ") {
				return fmt.Errorf("no route by %s among\n%s", gateway, routes)
			}
			return nil
		})
	}
	established(t, node, 1)
	held("172.30.1.254")
	sh(t, l.Underlay(), "ip addr add 172.30.1.253/24 dev br1")
	sh(t, node.Netns(), "ip route add 172.30.2.0/24 via 172.30.1.253")
	t.Logf("moved after %v", held("172.30.1.253"))
	sh(t, node.Netns(), "ip route del 172.30.2.0/24")
	t.Logf("moved back after %v", held("172.30.1.254"))
}
