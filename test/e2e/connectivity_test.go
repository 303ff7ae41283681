package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
)

// Everybody reaches everybody with the first packet: the lab gives no grace after its daemons said that they are ready.
func TestMatrix(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{Family: family, PodsPerNode: 2})
			wantMatrix(t, l)
			for _, v6 := range []bool{false, true} {
				if v6 && family.V6() || !v6 && family.V4() {
					wantLargePackets(t, l, v6, podMTU(t, l.Pods()[0]))
				}
			}
			for _, p := range l.Pods() {
				if err := p.Check(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Each setting of the stored backend object reaches the kernel, and packets still arrive.
func TestBackendConfig(t *testing.T) {
	tests := []struct {
		name, config string
		device       string
		want         []string // in what ip -d link says of the device
		podMTU       int
		direct       bool // nothing may pass the device
	}{
		{"defaults", `{}`, "flannel.1", []string{"vxlan id 1 ", "dstport 8472", "nolearning", "mtu 1450", "local 172.30.1.1 dev eth0"}, 1450, false},
		{"VNI and port", `{"VNI":4242424,"Port":4789}`, "flannel.4242424", []string{"vxlan id 4242424 ", "dstport 4789"}, 1450, false},
		{"MTU", `{"MTU":1400}`, "flannel.1", []string{"mtu 1350"}, 1350, false},
		{"GBP", `{"GBP":true}`, "flannel.1", []string{" gbp"}, 1450, false},
		{"learning", `{"Learning":true}`, "flannel.1", nil, 1450, false},
		{"direct routing", `{"DirectRouting":true}`, "flannel.1", []string{"vxlan id 1 "}, 1450, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{BackendConfig: json.RawMessage(tt.config), PodsPerNode: 1})
			wantMatrix(t, l)
			node := l.Nodes()[0]
			device := strings.ReplaceAll(sh(t, node.Netns(), "ip -d -o link show "+tt.device), `\`, " ")
			for _, want := range tt.want {
				if !strings.Contains(device, want) {
					t.Errorf("no %q in: %s", want, device)
				}
			}
			if strings.Contains(device, "nolearning") == strings.Contains(tt.config, "Learning") {
				t.Errorf("learning is not as stored: %s", device)
			}
			if mtu := podMTU(t, l.Pods()[0]); mtu != tt.podMTU {
				t.Errorf("pods have MTU %d, want %d", mtu, tt.podMTU)
			}
			wantLargePackets(t, l, false, tt.podMTU)
			sent := countPackets(t, node, tt.device)
			if tt.direct && sent > 0 || !tt.direct && sent == 0 {
				t.Errorf("%d packets passed %s", sent, tt.device)
			}
		})
	}
}

// Without encapsulation, what is on the wire between the nodes bears the pods' own addresses; with it, none does.
func TestWire(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct routing %t", direct), func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{Nodes: 2, BackendConfig: fmt.Appendf(nil, `{"DirectRouting":%t}`, direct), PodsPerNode: 1, Family: lab.DualStack})
			pods := l.Pods()
			// Counted by the underlay's bridge, which knows nothing of the nodes.
			sh(t, l.Underlay(), `nft -f - <<END
table bridge wire {
	chain seen {
		type filter hook forward priority 0
		ip daddr 10.244.0.0/16 counter comment "plain"
		ip6 daddr fd00:244::/48 counter comment "plain"
		udp dport 8472 counter comment "vxlan"
	}
}
END`)
			for _, to := range pods[1].Addrs() {
				must(t, echo(t.Context(), pods[0].Netns(), to, 0))
			}
			counted := map[string]int{}
			for line := range strings.Lines(sh(t, l.Underlay(), "nft list table bridge wire")) {
				var n int
				if _, rest, ok := strings.Cut(line, "counter packets "); ok {
					_, comment, _ := strings.Cut(rest, "comment ")
					if _, err := fmt.Sscan(rest, &n); err != nil {
						t.Fatal(err)
					}
					counted[strings.Trim(strings.TrimSpace(comment), `"`)] += n
				}
			}
			if direct && (counted["plain"] < 4 || counted["vxlan"] > 0) || !direct && (counted["plain"] > 0 || counted["vxlan"] < 4) {
				t.Errorf("on the wire: %v", counted)
			}
		})
	}
}

// wantLargePackets checks that a packet of the whole MTU passes between nodes in one piece, both ways, and that a larger one is
// refused at its source.
func wantLargePackets(t *testing.T, l *lab.Lab, v6 bool, mtu int) {
	t.Helper()
	nodes := l.Nodes()
	from, to := nodes[0].Pods()[0], nodes[1].Pods()[0]
	headers := 20 + 8
	if v6 {
		headers = 40 + 8
	}
	server := mirror(t, to.Netns(), addr(t, to, v6))
	if _, err := ask(t.Context(), from.Netns(), server, mtu-headers); err != nil {
		t.Errorf("a packet of %d bytes from %s to %v: %v", mtu, from.Name, server, err)
	}
	if _, err := ask(t.Context(), from.Netns(), server, mtu-headers+1); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a packet of %d bytes from %s to %v: %v, want EMSGSIZE", mtu+1, from.Name, server, err)
	}
}

func podMTU(t *testing.T, p *lab.Pod) int {
	t.Helper()
	return mtuOf(t, sh(t, p.Netns(), "ip -o link show eth0"))
}

// mtuOf finds the MTU in what ip link says.
func mtuOf(t *testing.T, text string) int {
	t.Helper()
	_, rest, _ := strings.Cut(text, " mtu ")
	number, _, _ := strings.Cut(rest, " ")
	mtu, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("no MTU in %q", text)
	}
	return mtu
}

// countPackets returns how many packets a link has sent and received.
func countPackets(t *testing.T, n *lab.Node, link string) int {
	t.Helper()
	var stats []struct {
		Stats64 struct{ RX, TX struct{ Packets int } }
	}
	must(t, json.Unmarshal([]byte(sh(t, n.Netns(), "ip -s -j link show "+link)), &stats))
	return stats[0].Stats64.RX.Packets + stats[0].Stats64.TX.Packets
}
