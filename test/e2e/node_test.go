package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// converged waits until all pods reach each other.
func converged(t *testing.T, l *lab.Lab, limit time.Duration) time.Duration {
	t.Helper()
	pods := l.Pods()
	return within(t, limit, func() error {
		for _, from := range pods {
			for _, to := range pods {
				for _, a := range to.Addrs() {
					if from == to {
						continue
					}
					if err := echo(t.Context(), from.Netns(), a, 0); err != nil {
						return fmt.Errorf("%s to %s: %w", from.Name, to.Name, err)
					}
				}
			}
		}
		return nil
	})
}

// moveFirst gives the first node the addresses 172.30.77.1 and fd00:30::77:1 in the place of its own, and returns when all reach its pods and
// its lease says so.
func moveFirst(t *testing.T, l *lab.Lab) {
	t.Helper()
	node := l.Nodes()[0]
	key := leaseKey(t, l, node)
	must(t, node.SetAddrs(netip.MustParseAddr("172.30.77.1"), netip.MustParseAddr("fd00:30::77:1")))
	t.Logf("converged after %v", converged(t, l, recovery))
	within(t, recovery, func() error {
		all, err := storedLeases(t.Context(), l)
		if err == nil && !strings.Contains(all[key], "172.30.77.1") {
			err = fmt.Errorf("the lease says %s", all[key])
		}
		return err
	})
}

func TestNodeAddressChanges(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	bystanders := startLoad(t, l.Pods()[1], addr(t, l.Pods()[2], false), 5*time.Millisecond)
	moveFirst(t, l)
	within(t, recovery, func() error {
		if fdb := sh(t, l.Nodes()[1].Netns(), "bridge fdb show dev flannel.1"); strings.Contains(fdb, "dst 172.30.1.1 ") || !strings.Contains(fdb, "dst 172.30.77.1 ") {
			return fmt.Errorf("a peer holds:\n%s", fdb)
		}
		return ready(t, node)
	})
	bystanders.endWhole(t)
	wantMatrix(t, l)
}

// The default route moves to another link, while nothing happens to the link that it left.
func TestDefaultRouteMoves(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1, DaemonArgs: []string{"--iface="}})
	node := l.Nodes()[0]
	key := leaseKey(t, l, node)
	sh(t, l.Underlay(), fmt.Sprintf(`
		bridge=$(ip -o link show type bridge | sed 's/^[0-9]*: \([^:]*\):.*/\1/')
		ip link add second type veth peer name eth1 netns %s
		ip link set second master $bridge up`, node.Netns().Name()))
	sh(t, node.Netns(), "ip link set eth1 up; ip addr add 172.30.88.1/16 dev eth1")
	within(t, enough, func() error { // the end of duplicate address detection would have the uplink looked up
		if out := sh(t, node.Netns(), "ip -o addr show tentative"); out != "" {
			return fmt.Errorf("tentative: %s", out)
		}
		return nil
	})
	bystanders := startLoad(t, l.Pods()[1], addr(t, l.Pods()[2], false), 5*time.Millisecond)
	sh(t, node.Netns(), "ip route del default; ip route add default via 172.30.0.1 dev eth1")
	took := within(t, recovery, func() error {
		all, err := storedLeases(t.Context(), l)
		if err == nil && !strings.Contains(all[key], `"172.30.88.1"`) {
			err = fmt.Errorf("the lease says %s", all[key])
		}
		return err
	})
	within(t, recovery, func() error {
		device, err := trySh(t.Context(), node.Netns(), "ip -d -o link show flannel.1")
		if err == nil && !strings.Contains(device, "local 172.30.88.1 dev eth1") {
			err = fmt.Errorf("the device is still %s", device)
		}
		return err
	})
	t.Logf("published after %v, converged after %v more", took, converged(t, l, recovery))
	within(t, recovery, func() error { return ready(t, node) })
	bystanders.endWhole(t)
	wantMatrix(t, l)
}

func TestUplinkMTUChanges(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	node := l.Nodes()[0]
	for _, mtu := range []int{1400, 9000} {
		must(t, l.SetMTU(mtu))
		for _, n := range l.Nodes() {
			within(t, recovery, func() error {
				env, err := os.ReadFile(n.SubnetFile())
				if err != nil {
					return err
				}
				if want := fmt.Sprintf("FLANNEL_MTU=%d\n", mtu-50); !strings.Contains(string(env), want) {
					return fmt.Errorf("no %s in %s", want, env)
				}
				for _, dev := range []string{"flannel.1", "cni0"} {
					if have := mtuOf(t, sh(t, n.Netns(), "ip -o link show "+dev)); have != mtu-50 {
						return fmt.Errorf("%s of %s has MTU %d, want %d", dev, n.Name, have, mtu-50)
					}
				}
				return ready(t, n)
			})
		}
		p, err := node.AddPod(t.Context(), lab.PodOptions{})
		must(t, err)
		if have := podMTU(t, p); have != mtu-50 {
			t.Errorf("a new pod has MTU %d, want %d", have, mtu-50)
		}
		wantMatrix(t, l)
	}
}

func TestUplinkFails(t *testing.T) {
	tests := []struct {
		name      string
		down, now func(n *lab.Node) error
	}{
		{"cable", (*lab.Node).Unplug, (*lab.Node).PlugIn},
		{"switch", (*lab.Node).Isolate, (*lab.Node).Rejoin},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{PodsPerNode: 2})
			node := l.Nodes()[0]
			bystanders := startLoad(t, l.Nodes()[1].Pods()[0], addr(t, l.Nodes()[2].Pods()[0], false), 5*time.Millisecond)
			inside := startLoad(t, node.Pods()[0], addr(t, node.Pods()[1], false), 5*time.Millisecond)
			must(t, tt.down(node))
			unready(t, node, 20*time.Second, "")
			must(t, tt.now(node))
			t.Logf("pods after %v", converged(t, l, recovery))
			t.Logf("ready after %v more", within(t, recovery, func() error { return ready(t, node) }))
			bystanders.endWhole(t)
			inside.endWhole(t)
			wantMatrix(t, l)
		})
	}
}

// Somebody sets the uplink down and up by hand: the kernel forgets all routes by it.
func TestUplinkSetDown(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{BackendConfig: []byte(`{"DirectRouting":true}`), PodsPerNode: 1})
	node := l.Nodes()[0]
	sh(t, node.Netns(), "ip link set eth0 down")
	holds(t, 500*time.Millisecond, func() error { return nil })
	sh(t, node.Netns(), "ip link set eth0 up; ip route replace default via 172.30.0.1")
	t.Logf("pods after %v", converged(t, l, recovery))
	within(t, recovery, func() error { return ready(t, node) })
	wantMatrix(t, l)
}

func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	bystanders := startLoad(t, l.Pods()[0], addr(t, l.Pods()[1], false), 5*time.Millisecond)
	n, err := l.AddNode(t.Context(), lab.NodeOptions{})
	must(t, err)
	must(t, n.Ready(t.Context()))
	_, err = n.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	t.Logf("the new node is reached after %v", converged(t, l, recovery))
	key := leaseKey(t, l, n)
	subnet := strings.Replace(strings.TrimPrefix(key, subnetsKey), "-", "/", 1)
	must(t, n.Delete(t.Context()))
	del(t, l, key) // as the expiry of its lease does a day later
	for _, n := range l.Nodes() {
		within(t, recovery, hasRoute(t, n, subnet, false))
	}
	bystanders.endWhole(t)
	wantMatrix(t, l)
}

// Two nodes with one name are two nodes still: VTEP MACs follow from the public address too. Everybody reaches the pods of both, and when
// one is gone, those of the other.
func TestTwoNodesOfOneName(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	bystanders := startLoad(t, l.Pods()[1], addr(t, l.Pods()[2], false), 5*time.Millisecond)
	twin, err := l.AddNode(t.Context(), lab.NodeOptions{Name: "twin", Args: []string{"--node-name=node1"}})
	must(t, err)
	must(t, twin.Ready(t.Context()))
	_, err = twin.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	converged(t, l, recovery)
	wantMatrix(t, l)
	key := leaseKey(t, l, twin)
	must(t, twin.Delete(t.Context()))
	del(t, l, key)
	bystanders.endWhole(t)
	wantMatrix(t, l)
}

// A peer's lease with the VTEP MAC of another one: it is said that only one of the two can work, and all is well when one of them is gone.
func TestTwoPeersOfOneMAC(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	node := l.Nodes()[0]
	all, err := storedLeases(t.Context(), l)
	must(t, err)
	copied := strings.ReplaceAll(all[leaseKey(t, l, l.Nodes()[1])], "172.30.1.2", "172.30.9.9")
	stream := startLoad(t, l.Pods()[0], addr(t, l.Pods()[2], false), 5*time.Millisecond)
	put(t, l, subnetsKey+"10.244.250.0-24", copied)
	within(t, recovery, func() error {
		log, err := node.DaemonLog()
		if err == nil && !strings.Contains(log, "10.244.250.0-24") && !strings.Contains(log, "10.244.250.0/24") {
			err = fmt.Errorf("nothing is said of it")
		}
		return err
	})
	var data struct{ BackendData struct{ VtepMAC string } }
	must(t, json.Unmarshal([]byte(copied), &data))
	holds(t, time.Second, func() error {
		if fdb := sh(t, node.Netns(), "bridge fdb show dev flannel.1"); strings.Count(fdb, data.BackendData.VtepMAC+" dst ") != 1 {
			return fmt.Errorf("FDB:\n%s", fdb)
		}
		return nil
	})
	log, err := node.DaemonLog()
	must(t, err)
	if len(log) > 32<<10 {
		t.Errorf("the log has %d bytes: is it said again and again?", len(log))
	}
	del(t, l, subnetsKey+"10.244.250.0-24")
	within(t, recovery, func() error { return ready(t, node) })
	converged(t, l, recovery)
	stream.endWhole(t)
	wantMatrix(t, l)
}

// Many nodes that start at the same moment get subnets of their own.
func TestManyNodes(t *testing.T) {
	const nodes = 30
	l := newLab(t, lab.Options{Nodes: nodes})
	begin := time.Now()
	must(t, l.Up(t.Context()))
	took := time.Since(begin)
	all, err := storedLeases(t.Context(), l)
	must(t, err)
	if len(all) != nodes {
		t.Errorf("%d leases for %d nodes", len(all), nodes)
	}
	begin = time.Now()
	for _, n := range l.Nodes() {
		within(t, recovery, func() error {
			if have := metric(t, n, "twill_peers"); have != nodes-1 {
				return fmt.Errorf("%s reaches %v peers", n.Name, have)
			}
			return ready(t, n)
		})
	}
	t.Logf("%d nodes up in %v, all know each other %v later", nodes, took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	first, last := l.Nodes()[0], l.Nodes()[nodes-1]
	for _, n := range []*lab.Node{first, last} {
		_, err := n.AddPod(t.Context(), lab.PodOptions{})
		must(t, err)
	}
	must(t, echo(t.Context(), first.Pods()[0].Netns(), addr(t, last.Pods()[0], false), 0))
}
