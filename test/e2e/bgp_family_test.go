package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// bird6 is a BIRD that speaks of both families over IPv6; ipv4 are options of its IPv4 channel.
const bird6 = `
log stderr all;
router id %[1]s;
protocol device { }
protocol direct { ipv4; ipv6; interface "eth0"; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
protocol static { ipv4; route 203.0.113.0/24 blackhole; }
protocol static { ipv6; route 2001:db8:f::/48 blackhole; }
protocol bgp node {
  local %[2]s as %[3]d;
  neighbor %[4]s as %[5]d;
  graceful restart on;
  connect delay time 1;
  ipv4 { import all; export where source != RTS_DEVICE; %[6]s };
  ipv6 { import all; export where source != RTS_DEVICE; };
}
`

// frr6 is an FRR that does the same; options are of the session.
const frr6 = `
router bgp %[3]d
 bgp router-id %[1]s
 bgp graceful-restart
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor %[4]s remote-as %[5]d
 neighbor %[4]s timers connect 1
 neighbor %[4]s advertisement-interval 0
 %[6]s
 address-family ipv4 unicast
  network 203.0.113.0/24
  neighbor %[4]s activate
 address-family ipv6 unicast
  network 2001:db8:f::/48
  neighbor %[4]s activate
`

// A session over IPv6 carries both families. IPv4 is reached by way of what the neighbour names as its next hop: an IPv6 address (RFC 8950), which the
// kernel takes as it is, or an IPv4 address.
func TestBGPBothFamiliesOverIPv6(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		via6 bool
		run  func(t *testing.T, on *peertest.Host, fill func(text, options string) string, four netip.Addr)
	}{
		{"BIRD, IPv6 next hop", true, func(t *testing.T, on *peertest.Host, fill func(text, options string) string, _ netip.Addr) {
			peertest.StartBIRD(t, on, fill(bird6, "extended next hop on;"))
		}},
		{"BIRD, IPv4 next hop", false, func(t *testing.T, on *peertest.Host, fill func(text, options string) string, four netip.Addr) {
			peertest.StartBIRD(t, on, fill(bird6, "next hop address "+four.String()+";"))
		}},
		{"FRR, IPv6 next hop", true, func(t *testing.T, on *peertest.Host, fill func(text, options string) string, _ netip.Addr) {
			peertest.StartFRR(t, on, fill(frr6, "neighbor NODE capability extended-nexthop"))
		}},
		{"FRR, as it is", false, func(t *testing.T, on *peertest.Host, fill func(text, options string) string, _ netip.Addr) {
			peertest.StartFRR(t, on, fill(frr6, ""))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 1})
			node, pod := l.Nodes()[0], l.Pods()[0]
			tor := outsider(t, l, "tor")
			four, six := address(t, tor, false), address(t, tor, true)
			must(t, node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: tor, address: \"%s\", as: %d}\n", six, rackAS)))
			tt.run(t, peertest.At(t, tor.Netns().Path()), func(text, options string) string {
				at := address(t, node, true).String()
				return fmt.Sprintf(text, four, six, rackAS, at, nodesAS, strings.ReplaceAll(options, "NODE", at))
			}, four)
			gateway := four
			if tt.via6 {
				gateway = six
			}
			leads(t, node, behind6, six)
			leads(t, node, behind4, gateway)
			for _, to := range []string{behindAddr4, behindAddr6} {
				must(t, echo(t.Context(), pod.Netns(), netip.MustParseAddr(to), 0))
			}
			for _, to := range pod.Addrs() {
				within(t, enough, func() error { return echo(t.Context(), tor.Netns(), to, 0) })
			}
			if all := sessions(t, node); len(all) != 1 || all[0].Flaps > 0 || all[0].Announced != 2 {
				t.Errorf("sessions %+v", all)
			}
		})
	}
}

// An IPv6 prefix whose next hop is no IPv6 address of a router stays out of the kernel, and keeps nothing else out.
func TestBGPNextHopOfTheOtherFamily(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 1})
	node, tor := l.Nodes()[0], outsider(t, l, "tor")
	four, six := address(t, tor, false), address(t, tor, true)
	must(t, node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: tor, address: %s, as: %d, passive: true}\n", four, rackAS)))
	raw := peertest.DialRaw(t, peertest.At(t, tor.Netns().Path()), netip.AddrPortFrom(address(t, node, false), 179), rackAS)
	send := func(prefix string, hop []byte) {
		p := netip.MustParsePrefix(prefix)
		reach := slices.Concat([]byte{0, 2, 1, byte(len(hop))}, hop, []byte{0, byte(p.Bits())}, p.Addr().AsSlice()[:p.Bits()/8])
		raw.Send(peertest.Update(slices.Concat(bgpOrigin, bgpASPath, peertest.Attribute(0x80, 14, reach...))))
	}
	mapped := four.As16()
	for i, hop := range [][]byte{four.AsSlice(), mapped[:], netip.MustParseAddr("fe80::1").AsSlice()} {
		bad, good := fmt.Sprintf("2001:db8:bad:%d::/64", 1+i), fmt.Sprintf("2001:db8:600d:%d::/64", 1+i)
		send(bad, hop)
		send(good, six.AsSlice())
		leads(t, node, good, six)
		leads(t, node, bad)
		shown := twillctl(t, "bgp", "routes", "--lab-node", node.Name, "--name", l.Name())
		for line := range strings.Lines(shown.stdout) {
			if strings.HasPrefix(line, bad) {
				t.Log(strings.TrimSpace(line))
				if strings.HasSuffix(strings.TrimSpace(line), " -") {
					t.Errorf("it does not say why the kernel does not get it: %s", line)
				}
			}
		}
		must(t, ready(t, node))
	}
	if s, err := peerState(t, l, node, "tor"); err != nil || !s.Established() {
		t.Errorf("%+v, %v", s, err)
	}
}
