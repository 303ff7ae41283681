package live_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/bgp/topology"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// member is the lease of node i.
func member(i int) *store.Lease {
	return &store.Lease{
		Subnet: netip.MustParsePrefix(fmt.Sprintf("10.5.%d.0/24", i)), PublicIP: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)),
		BackendType: bgp.BackendType, BackendData: json.RawMessage(fmt.Sprintf(`{"AS":64512,"Node":"node%d","RouterID":"192.0.2.%[1]d"}`, i)),
	}
}

// bird is the configuration of node i.
func bird(i int) string {
	return fmt.Sprintf(`
log stderr all;
router id 192.0.2.%[1]d;
protocol device { }
protocol static { ipv4; route 10.5.%[1]d.0/24 blackhole; route 203.0.113.%[1]d/32 blackhole; }
protocol bgp twill {
  local 192.0.2.%[1]d as 64512;
  neighbor 192.0.2.1 as 64512;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 { import all; export all; next hop self; };
}
`, i)
}

// A node that becomes a reflector, or ceases to be one, does so within its sessions. Before and after, it keeps what it hears to itself.
func TestBecomingAReflector(t *testing.T) {
	segment := peertest.NewSegment(t, "192.0.2.1/24")
	nodes := map[int]*peertest.BIRD{}
	for _, i := range []int{2, 3} {
		nodes[i] = peertest.StartBIRD(t, segment.Host(fmt.Sprintf("192.0.2.%d/24", i)), bird(i))
	}
	as := func(text string) topology.Plan {
		cfg, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return topology.Make(topology.Input{
			PlanInput: bgp.PlanInput{
				Uplink: kernel.Uplink{Name: "br0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
				Self:   member(1), Leases: []*store.Lease{member(1), member(2), member(3)},
			},
			Network: store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24}},
			Config:  cfg, Node: cfg.Node("node1", nil, config.NodeSettings{}), Now: time.Now(),
		})
	}
	speaker := run(t, as(""))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sessions: %+v, learned %+v", speaker.Sessions(), speaker.Learned())
		}
	})
	peertest.Eventually(t, "both nodes have this one's pods", 20*time.Second, func() bool {
		return nodes[2].Has("10.5.1.0/24") && nodes[3].Has("10.5.1.0/24") && len(speaker.Learned()) == 3
	})
	for _, r := range speaker.Learned() {
		if !netip.MustParsePrefix("10.5.0.0/16").Overlaps(r.Prefix) {
			t.Errorf("%v was taken from a node", r.Prefix)
		}
	}
	if nodes[2].Has("10.5.3.0/24") || nodes[3].Has("10.5.2.0/24") {
		t.Error("a node of the mesh passes on what it hears")
	}

	set(t, speaker, as("nodes: [{match: {}, reflector: {}}]"))
	peertest.Eventually(t, "the nodes hear of each other", 10*time.Second, func() bool {
		return nodes[2].Has("10.5.3.0/24", "BGP.originator_id: 192.0.2.3", "BGP.cluster_list: 192.0.2.1", "BGP.next_hop: 192.0.2.3") &&
			nodes[3].Has("10.5.2.0/24", "BGP.originator_id: 192.0.2.2")
	})
	if nodes[2].Has("203.0.113.3/32") {
		t.Error("the reflector passes on what is no prefix of pods")
	}

	set(t, speaker, as(""))
	peertest.Eventually(t, "the nodes do not hear of each other", 10*time.Second, func() bool {
		return !nodes[2].Has("10.5.3.0/24") && !nodes[3].Has("10.5.2.0/24")
	})
	for _, s := range speaker.Sessions() {
		if !s.Established() || s.Flaps > 0 {
			t.Errorf("the session with %s was lost: %+v", s.Name, s)
		}
	}
}
