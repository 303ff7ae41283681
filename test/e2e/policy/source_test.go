package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/policy/policytest"
)

// TestForeignSource has a pod that may send nothing send from addresses that are no pod's of its node. That it can pass for a neighbour is told among the limits
// in docs/policy.md.
func TestForeignSource(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := r.addPods(t, modelPods(2))
	locked := pods[0]
	var ears []*ear
	for _, p := range pods[4:] { // z/a and z/b
		ears = append(ears, newEar(t, p.name, p.ns, p.record.Addrs))
	}
	v4, v6 := r.lab.UnderlayGateway()
	ears = append(ears, newEar(t, "outside", r.lab.Underlay(), []netip.Addr{v4, v6}), newEar(t, "node1", r.node(1).Netns(), r.node(1).Addrs()))
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "deny", ""), false, true)))
	sources := map[string][2]string{
		"nobody of this node":    {"10.70.1.77", "fd70:0:0:1::77"},
		"a pod of another node":  {"10.70.2.18", "fd70:0:0:2::12"},
		"the world":              {"192.0.2.7", "2001:db8:7::7"},
		"the node":               {"172.30.1.1", "fd00:30::1:1"},
		"the bridge of the node": {"10.70.1.1", "fd70:0:0:1::1"},
	}
	for name, pair := range sources {
		for _, text := range pair {
			source := netip.MustParseAddr(text)
			sh(t, locked.ns, fmt.Sprintf("ip addr add %s/%d dev eth0 %s", source, source.BitLen(), map[bool]string{true: "nodad"}[source.Is6()]))
			for _, e := range ears {
				for _, a := range e.addr {
					if a.Is6() == source.Is6() {
						must(t, locked.Do(func() error { return sendFrom(source, a, name) }))
					}
				}
			}
			sh(t, locked.ns, fmt.Sprintf("ip addr del %s/%d dev eth0", source, source.BitLen()))
		}
	}
	// What another pod sends after all that comes after it.
	for _, e := range ears {
		for _, a := range e.addr {
			for _, source := range pods[2].record.Addrs {
				if a.Is6() == source.Is6() {
					must(t, pods[2].Do(func() error { return sendFrom(source, a, "the last") }))
				}
			}
		}
		within(t, patience, func() error {
			if e.from("the last") < len(e.addr) {
				return fmt.Errorf("%s has not heard the last of it", e.name)
			}
			return nil
		})
	}
	for name := range sources {
		for _, e := range ears {
			if n := e.from(name); n > 0 {
				t.Errorf("%s heard %d datagrams of %s, who has no egress, with the address of %s", e.name, n, locked.name, name)
			}
		}
	}
}

func sendFrom(source, to netip.Addr, text string) error {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
		return fmt.Errorf("bind %v: %w", source, err)
	}
	for range 3 {
		if err := unix.Sendto(fd, []byte(text), 0, sockaddr(netip.AddrPortFrom(to, listenPort))); err != nil {
			return fmt.Errorf("send from %v to %v: %w", source, to, err)
		}
	}
	return nil
}
