//go:build linux

package linux

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// node is one of two nodes on a wire.
type node struct {
	underlay, underlay6 string // addresses
	subnet, subnet6     string // base addresses of the pod subnets
	mac                 string
}

var nodes = [2]node{
	{"192.0.2.1", "2001:db8::1", "10.5.0.0", "fd00:5::", "02:00:00:00:00:01"},
	{"192.0.2.2", "2001:db8::2", "10.6.0.0", "fd00:6::", "02:00:00:00:00:02"},
}

// serve makes the node what twilld would make it, with a bridge that holds the first address of each pod subnet.
func (n node) serve(t *testing.T, h *Handle, other node) {
	t.Helper()
	setUp(t, fmt.Sprintf(`
addr add %s/24 dev eth0
addr add %s/64 dev eth0 nodad
link set eth0 up`, n.underlay, n.underlay6))
	v4, v6, bridge := flannel4(), flannel6(), cni0()
	v4.MAC, v6.MAC = mustMAC(n.mac), mustMAC(n.mac)
	v4.VXLAN.Local, v6.VXLAN.Local = netip.MustParseAddr(n.underlay), netip.MustParseAddr(n.underlay6)
	v4.Addresses, v6.Addresses = prefixes(n.subnet+"/32"), prefixes(n.subnet6+"/128")
	bridge.MTU = 1430
	bridge.Addresses = []netip.Prefix{
		netip.PrefixFrom(netip.MustParseAddr(n.subnet).Next(), 24), netip.PrefixFrom(netip.MustParseAddr(n.subnet6).Next(), 64)}
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(v4, v6, bridge)))
	wantNoErrors(t, h.ApplyFDB(t.Context(), set(fdb(v4.Name, other.mac, other.underlay), fdb(v6.Name, other.mac, other.underlay6))))
	wantNoErrors(t, h.ApplyNeighbors(t.Context(), set(neighbor(v4.Name, other.subnet, other.mac), neighbor(v6.Name, other.subnet6, other.mac))))
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(route(other.subnet+"/24", onLink(other.subnet, v4.Name)),
		route(other.subnet6+"/64", onLink(other.subnet6, v6.Name)))))
}

// TestPacketsReachPeers sends packets from one node to another through all that the package makes.
func TestPacketsReachPeers(t *testing.T) {
	far := open(t)
	ns := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	farNamespace, err := os.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer farNamespace.Close()
	near := open(t)
	nearNamespace, err := os.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer nearNamespace.Close()
	enter := func(f *os.File) {
		t.Helper()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, fmt.Sprintf("link add eth0 type veth peer name eth0 netns /proc/%d/fd/%d", os.Getpid(), farNamespace.Fd()))
	nodes[0].serve(t, near, nodes[1])
	enter(farNamespace)
	nodes[1].serve(t, far, nodes[0])
	enter(nearNamespace)
	for _, base := range []string{nodes[1].subnet, nodes[1].subnet6} {
		run(t, "ping -n -c 3 -i 0.2 -W 5 "+netip.MustParseAddr(base).Next().String())
	}
	// An old route with the scope that flanneld gives works the same and is replaced under way.
	ip(t, "route replace 10.6.0.0/24 via 10.6.0.0 dev flannel.1 onlink")
	run(t, "ping -n -c 1 -W 5 10.6.0.1")
	wantNoErrors(t, near.ApplyRoutes(t.Context(), set(kernel.Route{Dst: netip.MustParsePrefix("10.6.0.0/24"), MTU: 1400,
		NextHops: []kernel.NextHop{onLink("10.6.0.0", "flannel.1")}})))
	run(t, "ping -n -c 1 -W 5 10.6.0.1")
}
