package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// handmade is two machines of the underlay on which ip(8) has made what Twill makes of two nodes: the floor of what a bridge and veth
// pairs cost, whoever makes them.
//
//	pod eth0 -- veth0 cni0 -- route [vxlan0] -- eth0 ~ underlay ~ eth0 -- [vxlan0] route -- cni0 veth0 -- eth0 pod
//
// There is no daemon. Without tracked there is nothing of netfilter either; with it, one rule makes the kernel track connections, as it
// does wherever anything is masqueraded, translated or filtered by state.
type handmade struct {
	machines, pods []place
	namespaces     []netns.Namespace
}

// byHand makes the two machines, named by name and a number. The backend says whether a VXLAN device is between them.
func byHand(ctx context.Context, l *lab.Lab, name, backend string, tracked bool) (*handmade, error) {
	var h handmade
	var machines []*lab.Node
	for i := range 2 {
		m, addr, err := machine(ctx, l, fmt.Sprintf("%s%d", name, i+1))
		if err != nil {
			return nil, errors.Join(err, h.close())
		}
		machines = append(machines, m)
		h.machines = append(h.machines, place{addr, m.Do, m.Command})
	}
	for i, m := range machines {
		if err := h.build(ctx, m, i, backend); err != nil {
			return nil, errors.Join(err, h.close())
		}
		if !tracked {
			continue
		}
		const rule = "table ip tracked { chain forward { type filter hook forward priority 0; ct state invalid drop; }; }"
		if out, err := m.Command(ctx, "nft", rule).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("track connections on %s: %w: %s", m.Name, err, out), h.close())
		}
	}
	return &h, nil
}

// build makes one side of the way: bridge, pod and the route to the other side.
func (h *handmade) build(ctx context.Context, m *lab.Node, self int, backend string) error {
	pod, err := netns.Create(m.Name + "-pod")
	if err != nil {
		return err
	}
	h.namespaces = append(h.namespaces, pod)
	h.pods = append(h.pods, place{handAddr(self, 2), pod.Do, func(ctx context.Context, name string, args ...string) *lab.Cmd {
		return lab.Command(ctx, pod, name, args...)
	}})
	other := 1 - self
	local, remote := h.machines[self].addr, h.machines[other].addr
	mtu, route := 1500, fmt.Sprintf("ip route add %s/24 via %s dev eth0", handAddr(other, 0), remote)
	var device []string
	if backend == lab.VXLAN {
		mtu, route = 1450, fmt.Sprintf("ip route add %s/24 via %[1]s dev vxlan0 onlink", handAddr(other, 0))
		device = []string{
			fmt.Sprintf("ip link add vxlan0 address %s mtu %d type vxlan id 1 dev eth0 local %s dstport 8472 nolearning udpcsum", handMAC(self), mtu, local),
			fmt.Sprintf("ip addr add %s/32 dev vxlan0", handAddr(self, 0)),
			"ip link set vxlan0 up",
			fmt.Sprintf("ip neigh add %s lladdr %s dev vxlan0 nud permanent", handAddr(other, 0), handMAC(other)),
			fmt.Sprintf("bridge fdb append %s dev vxlan0 dst %s", handMAC(other), remote),
		}
	}
	onMachine := append(device, route,
		"ip link add cni0 type bridge",
		fmt.Sprintf("ip link add veth0 mtu %d type veth peer name eth0 mtu %[1]d netns %s", mtu, pod.Name()),
		"ip link set veth0 master cni0 up",
		fmt.Sprintf("ip addr add %s/24 dev cni0", handAddr(self, 1)),
		"ip link set cni0 up")
	inPod := []string{
		fmt.Sprintf("ip addr add %s/24 dev eth0", handAddr(self, 2)),
		"ip link set eth0 up",
		fmt.Sprintf("ip route add default via %s", handAddr(self, 1)),
	}
	return errors.Join(runAll(ctx, m.Command, onMachine), runAll(ctx, h.pods[self].command, inPod))
}

// runAll runs commands without quoted words, until one fails.
func runAll(ctx context.Context, command func(context.Context, string, ...string) *lab.Cmd, lines []string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := command(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// handAddr returns an address of one side: .0 is its subnet, .1 the bridge, .2 the pod. All pairs of machines have the same: none
// knows of another.
func handAddr(side, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(side), byte(host)})
}

func handMAC(side int) string { return fmt.Sprintf("02:00:00:00:99:%02x", side) }

// close removes the pods; the machines go with the lab.
func (h *handmade) close() error {
	var failed []error
	for _, ns := range h.namespaces {
		failed = append(failed, ns.Remove())
	}
	return errors.Join(failed...)
}
