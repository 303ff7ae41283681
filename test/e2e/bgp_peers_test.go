package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// Autonomous systems: that of the lab's nodes, and those of routers beside them.
const (
	nodesAS = 64512
	rackAS  = 65001
)

// behind4 and behind6 are networks that routers announce, with one address each that answers.
const (
	behind4, behindAddr4 = "203.0.113.0/24", "203.0.113.1"
	behind6, behindAddr6 = "2001:db8:f::/48", "2001:db8:f::1"
)

// outsider makes a machine on the underlay that is no node of the cluster: the place of a router that speaks BGP. The addresses behind it
// are its own.
func outsider(t *testing.T, l *lab.Lab, name string) *lab.Node {
	t.Helper()
	n, err := l.AddNode(t.Context(), lab.NodeOptions{Name: name, NoDaemon: true})
	must(t, err)
	sh(t, n.Netns(), "ip addr add "+behindAddr4+"/32 dev lo")
	if l.Family().V6() {
		sh(t, n.Netns(), "ip addr add "+behindAddr6+"/128 dev lo")
	}
	return n
}

// address returns the node's underlay address of a family.
func address(t *testing.T, n *lab.Node, v6 bool) netip.Addr {
	t.Helper()
	for _, a := range n.Addrs() {
		if a.Is6() == v6 {
			return a
		}
	}
	t.Fatalf("%s has no such address: %v", n.Name, n.Addrs())
	panic("unreachable")
}

// router is what an independent BGP speaker beside the nodes is to be.
type router struct {
	as        int
	nodes     []*lab.Node
	options   string // for each session with a node, in the program's own words
	global    string // for the whole configuration
	announces bool   // the networks behind it
}

// bird starts BIRD on an outsider.
func (r router) bird(t *testing.T, on *lab.Node) *peertest.BIRD {
	t.Helper()
	return peertest.StartBIRD(t, peertest.At(t, on.Netns().Path()), r.birdConf(t, on))
}

func (r router) birdConf(t *testing.T, on *lab.Node) string {
	t.Helper()
	v6 := len(on.Addrs()) > 1
	var conf strings.Builder
	fmt.Fprintf(&conf, "log stderr all;\nrouter id %s;\nprotocol device { }\n%s\n", address(t, on, false), r.global)
	for _, family := range []struct{ name, behind string }{{"ipv4", behind4}, {"ipv6", behind6}} {
		fmt.Fprintf(&conf, "protocol direct { %s; interface \"eth0\"; }\n", family.name)
		fmt.Fprintf(&conf, "protocol kernel { %s { import none; export where source = RTS_BGP; }; merge paths on; }\n", family.name)
		if r.announces {
			fmt.Fprintf(&conf, "protocol static { %s; route %s blackhole; }\n", family.name, family.behind)
		}
	}
	for _, n := range r.nodes {
		fmt.Fprintf(&conf, `protocol bgp %s {
  local %s as %d;
  neighbor %s as %d;
  graceful restart on;
  hold time 9;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 { import all; export where source != RTS_DEVICE; };
`, strings.ReplaceAll(n.Name, "-", "_"), address(t, on, false), r.as, address(t, n, false), nodesAS)
		if v6 && r.as == nodesAS {
			fmt.Fprintln(&conf, "  ipv6 { import all; export where source != RTS_DEVICE; };")
		} else if v6 {
			fmt.Fprintf(&conf, "  ipv6 { import all; export where source != RTS_DEVICE; next hop address %s; };\n", address(t, on, true))
		}
		fmt.Fprintf(&conf, "%s\n}\n", r.options)
	}
	return conf.String()
}

// frr starts FRR on an outsider.
func (r router) frr(t *testing.T, on *lab.Node) *peertest.FRR {
	t.Helper()
	return peertest.StartFRR(t, peertest.At(t, on.Netns().Path()), r.frrConf(t, on))
}

func (r router) frrConf(t *testing.T, on *lab.Node) string {
	t.Helper()
	v6 := len(on.Addrs()) > 1
	var conf, in4, in6 strings.Builder
	fmt.Fprintf(&conf, "%s\nrouter bgp %d\n bgp router-id %s\n bgp graceful-restart\n coalesce-time 0\n no bgp ebgp-requires-policy\n no bgp network import-check\n",
		r.global, r.as, address(t, on, false))
	if r.announces {
		fmt.Fprintf(&in4, "  network %s\n", behind4)
		fmt.Fprintf(&in6, "  network %s\n", behind6)
	}
	for _, n := range r.nodes {
		a := address(t, n, false)
		fmt.Fprintf(&conf, " neighbor %[1]s remote-as %[2]d\n neighbor %[1]s timers 3 9\n neighbor %[1]s timers connect 1\n"+
			" neighbor %[1]s advertisement-interval 0\n", a, nodesAS)
		for _, line := range strings.Fields(r.options) {
			fmt.Fprintf(&in4, "  neighbor %s %s\n", a, line)
			fmt.Fprintf(&in6, "  neighbor %s %s\n", a, line)
		}
		fmt.Fprintf(&in4, "  neighbor %s activate\n", a)
		fmt.Fprintf(&in6, "  neighbor %s activate\n", a)
		if r.as != nodesAS {
			fmt.Fprintf(&in6, "  neighbor %s route-map SELF out\n", a)
		}
	}
	fmt.Fprintf(&conf, " address-family ipv4 unicast\n%s", in4.String())
	if v6 {
		fmt.Fprintf(&conf, " address-family ipv6 unicast\n%s", in6.String())
		fmt.Fprintf(&conf, "route-map SELF permit 10\n set ipv6 next-hop global %s\n", address(t, on, true))
	}
	return conf.String()
}

// speaks starts BIRD or FRR.
type speaks struct {
	name  string
	start func(t *testing.T, r router, on *lab.Node)
	// reflects is the option of a session with a client.
	reflects string
}

var independent = []speaks{
	{"BIRD", func(t *testing.T, r router, on *lab.Node) { r.bird(t, on) }, "rr client;"},
	{"FRR", func(t *testing.T, r router, on *lab.Node) { r.frr(t, on) }, "route-reflector-client"},
}

// peerState returns what `twillctl bgp peers` says of one of the node's peers.
func peerState(t *testing.T, l *lab.Lab, n *lab.Node, name string) (bgp.SessionState, error) {
	t.Helper()
	var all []bgp.SessionState
	decode(t, twillctl(t, "bgp", "peers", "-o", "json", "--lab-node", n.Name, "--name", l.Name()), &all)
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return bgp.SessionState{}, fmt.Errorf("%s has no peer %s: %+v", n.Name, name, all)
}

// The router of the rack hears where the pods are and tells what is behind it. Packets between it and pods, and between pods and what is behind
// it, need nothing else.
func TestBGPIndependentTopOfRack(t *testing.T) {
	t.Parallel()
	for _, other := range independent {
		t.Run(other.name, func(t *testing.T) {
			t.Parallel()
			l := upBGP(t, lab.Options{Nodes: 2, Family: lab.DualStack, PodsPerNode: 1})
			nodes := l.Nodes()
			tor := outsider(t, l, "tor")
			config := fmt.Sprintf("peers:\n- {name: tor, address: %s, as: %d}\n", address(t, tor, false), rackAS)
			for _, n := range nodes {
				must(t, n.SetBGPConfig([]byte(config)))
			}
			other.start(t, router{as: rackAS, nodes: nodes, announces: true}, tor)
			for _, n := range nodes {
				established(t, n, 2)
				within(t, enough, hasRoute(t, n, behind4, true))
				within(t, enough, hasRoute(t, n, behind6, true))
			}
			for _, pod := range l.Pods() {
				for _, to := range []string{behindAddr4, behindAddr6} {
					must(t, echo(t.Context(), pod.Netns(), netip.MustParseAddr(to), 0))
				}
				for _, to := range pod.Addrs() {
					within(t, enough, func() error { return echo(t.Context(), tor.Netns(), to, 0) })
				}
			}
			wantMatrix(t, l)
		})
	}
}

// Nodes without sessions among themselves know each other's pods from a reflector that is no node.
func TestBGPIndependentReflector(t *testing.T) {
	t.Parallel()
	for _, other := range independent {
		t.Run(other.name, func(t *testing.T) {
			t.Parallel()
			l := upBGP(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
			nodes := l.Nodes()
			reflector := outsider(t, l, "reflector")
			other.start(t, router{as: nodesAS, nodes: nodes, options: other.reflects}, reflector)
			config := fmt.Sprintf("mesh: \"off\"\npeers:\n- {name: reflector, address: %s, as: %d}\n", address(t, reflector, false), nodesAS)
			for _, n := range nodes {
				must(t, n.SetBGPConfig([]byte(config)))
			}
			for _, n := range nodes {
				established(t, n, 1)
			}
			within(t, enough, func() error { return reachable(t, l) })
			for _, pod := range l.Pods() {
				for _, to := range pod.Addrs() {
					within(t, enough, func() error { return echo(t.Context(), reflector.Netns(), to, 0) })
				}
			}
			wantMatrix(t, l)
		})
	}
}
