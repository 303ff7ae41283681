package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// nextHops returns the gateways of the node's only route to a prefix, sorted; none when there is no route.
func nextHops(t *testing.T, n *lab.Node, prefix string) ([]string, error) {
	t.Helper()
	type hop struct {
		Gateway string
		Via     struct{ Host string } // a gateway of the other family
	}
	var routes []struct {
		hop
		Nexthops []hop
	}
	family := "-4"
	if strings.Contains(prefix, ":") {
		family = "-6"
	}
	text, err := trySh(t.Context(), n.Netns(), "ip -j "+family+" route show "+prefix)
	if err == nil {
		err = json.Unmarshal([]byte(text), &routes)
	}
	if err == nil && len(routes) > 1 {
		err = fmt.Errorf("there are %d routes to %s: %s", len(routes), prefix, text)
	}
	var found []string
	for _, r := range routes {
		for _, h := range append(r.Nexthops, r.hop) {
			if gateway := h.Gateway + h.Via.Host; gateway != "" {
				found = append(found, gateway)
			}
		}
	}
	slices.Sort(found)
	return found, err
}

// leads waits until the node's route to a prefix has exactly these gateways.
func leads(t *testing.T, n *lab.Node, prefix string, gateways ...netip.Addr) {
	t.Helper()
	want := []string{}
	for _, g := range gateways {
		want = append(want, g.String())
	}
	slices.Sort(want)
	within(t, enough, func() error {
		have, err := nextHops(t, n, prefix)
		if err == nil && !slices.Equal(have, want) {
			err = fmt.Errorf("%s leads to %v, want %v", prefix, have, want)
		}
		return err
	})
}

// What two routers announce is reached through both; what one of them withdraws, through the other one alone.
func TestBGPEqualPathsOfFRR(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	config := "peers:\n"
	var tors []*lab.Node
	var routers []*peertest.FRR
	for i, name := range []string{"tor1", "tor2"} {
		tor := outsider(t, l, name)
		r := router{as: rackAS + i, nodes: []*lab.Node{node}, announces: true}
		tors, routers = append(tors, tor), append(routers, r.frr(t, tor))
		config += fmt.Sprintf("- {name: %s, address: %s, as: %d}\n", name, address(t, tor, false), r.as)
	}
	must(t, node.SetBGPConfig([]byte(config)))
	for _, family := range []struct {
		name, prefix, to string
		v6               bool
	}{{"ipv4", behind4, behindAddr4, false}, {"ipv6", behind6, behindAddr6, true}} {
		one, two := address(t, tors[0], family.v6), address(t, tors[1], family.v6)
		leads(t, node, family.prefix, one, two)
		say := func(r int, what string) {
			routers[r].Ctl("configure terminal", fmt.Sprintf("router bgp %d", rackAS+r), "address-family "+family.name+" unicast", what+"network "+family.prefix)
		}
		say(0, "no ")
		leads(t, node, family.prefix, two)
		must(t, echo(t.Context(), l.Pods()[0].Netns(), netip.MustParseAddr(family.to), 0))
		say(0, "")
		leads(t, node, family.prefix, one, two)
		say(1, "no ")
		leads(t, node, family.prefix, one)
		say(0, "no ")
		leads(t, node, family.prefix)
	}
}

// A router behind another one is a peer when it is said how far away it is, and its announcements are reached by way of what leads to their next
// hops: the host's own route, or what a nearer router announces.
func TestBGPMultihop(t *testing.T) {
	t.Parallel()
	const beyond, hop = "198.18.5.0/24", "198.51.100.9" // what the far router announces with a next hop behind the near one
	l := upBGP(t, lab.Options{Nodes: 1, Subnets: 2, Family: lab.DualStack, PodsPerNode: 1, Routing: lab.Routing{Overlay: lab.OverlayNever}})
	node := l.Nodes()[0]
	far, near := outsider(t, l, "far"), outsider(t, l, "near")
	if node.Subnet() == far.Subnet() || node.Subnet() != near.Subnet() {
		t.Fatalf("the node is in subnet %d, the far router in %d, the near one in %d", node.Subnet(), far.Subnet(), near.Subnet())
	}
	for i, via := range []string{"ip route add " + behind4, "ip -6 route add " + behind6} { // as the routers on the way know
		sh(t, l.Underlay(), via+" via "+address(t, far, i == 1).String())
	}
	// Passive: a connection of its own would come through, since its packets have TTL enough, and hide that those of the node do not.
	r := router{as: rackAS, nodes: []*lab.Node{node}, announces: true, options: "multihop 4; passive;"}
	conf := r.birdConf(t, far)
	export := "export where source != RTS_DEVICE;"
	conf = strings.Replace(conf, export, "export filter { if net = "+beyond+" then bgp_next_hop = "+hop+"; if source != RTS_DEVICE then accept; reject; };", 1)
	peertest.StartBIRD(t, peertest.At(t, far.Netns().Path()), conf+"protocol static { ipv4; route "+beyond+" blackhole; }\n")
	router{as: rackAS + 1, nodes: r.nodes, global: "protocol static { ipv4; route 198.51.100.0/24 blackhole; }"}.bird(t, near)

	config := fmt.Sprintf("peers:\n- {name: near, address: %s, as: %d}\n- {name: far, address: %s, as: %d", address(t, near, false), rackAS+1, address(t, far, false), rackAS)
	must(t, node.SetBGPConfig([]byte(config+"}\n")))
	says(t, l, node, "far", "no route to host") // the router on the way drops packets whose TTL is 1
	must(t, node.SetBGPConfig([]byte(config+", multihopTTL: 4}\n")))
	comesUp(t, l, node, "far")
	leads(t, node, behind4, netip.MustParseAddr("172.30.1.254"))
	leads(t, node, behind6, netip.MustParseAddr("fd00:30:0:1::fe"))
	leads(t, node, beyond, address(t, near, false))
	for _, to := range []string{behindAddr4, behindAddr6} {
		must(t, echo(t.Context(), l.Pods()[0].Netns(), netip.MustParseAddr(to), 0))
	}
}
