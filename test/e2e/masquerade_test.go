package e2e

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// Who sees which source address. The underlay's gateway has no route to pods: it stands for the world.
func TestMasquerade(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Family: lab.DualStack, PodsPerNode: 2})
	nodes := l.Nodes()
	pod, near, far := nodes[0].Pods()[0], nodes[0].Pods()[1], nodes[1].Pods()[0]
	v4, v6 := l.UnderlayGateway()
	world := map[bool]netip.Addr{false: v4, true: v6}
	nodeAddr := func(n *lab.Node, six bool) netip.Addr {
		for _, a := range n.Addrs() {
			if a.Is6() == six {
				return a
			}
		}
		t.Fatalf("%s has no such address", n.Name)
		panic("unreachable")
	}
	for _, six := range []bool{false, true} {
		family := map[bool]string{false: "IPv4", true: "IPv6"}[six]
		base := netip.PrefixFrom(addr(t, pod, six), map[bool]int{false: 24, true: 64}[six]).Masked().Addr()
		tests := []struct {
			name     string
			from, to netns.Namespace
			server   netip.Addr
			want     netip.Addr
		}{
			{"pod to the world", pod.Netns(), l.Underlay(), world[six], nodeAddr(nodes[0], six)},
			{"pod to another node", pod.Netns(), nodes[1].Netns(), nodeAddr(nodes[1], six), nodeAddr(nodes[0], six)},
			{"pod to its own node", pod.Netns(), nodes[0].Netns(), nodeAddr(nodes[0], six), addr(t, pod, six)},
			{"pod to a pod of the same node", pod.Netns(), near.Netns(), addr(t, near, six), addr(t, pod, six)},
			{"pod to a pod of another node", pod.Netns(), far.Netns(), addr(t, far, six), addr(t, pod, six)},
			{"node to a pod of another node", nodes[0].Netns(), far.Netns(), addr(t, far, six), base},
		}
		for _, tt := range tests {
			t.Run(family+" "+tt.name, func(t *testing.T) {
				got, err := ask(t.Context(), tt.from, mirror(t, tt.to, tt.server), 0)
				if err != nil || got != tt.want {
					t.Errorf("came from %v (%v), want %v", got, err, tt.want)
				}
			})
		}
	}
}

// Whoever switches masquerading off gets none of it.
func TestNoMasquerade(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1, DaemonArgs: []string{"--ip-masq=false"}})
	pods, nodes := l.Pods(), l.Nodes()
	gateway, _ := l.UnderlayGateway()
	sh(t, l.Underlay(), "ip route add 10.244.0.0/16 via "+nodes[0].Addrs()[0].String())
	got, err := ask(t.Context(), pods[0].Netns(), mirror(t, l.Underlay(), gateway), 0)
	if want := addr(t, pods[0], false); err != nil || got != want {
		t.Errorf("came from %v (%v), want %v", got, err, want)
	}
}
