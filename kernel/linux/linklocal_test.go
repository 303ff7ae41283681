//go:build linux

package linux

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// TestBridgeAsksBeforeItRoutes listens to what the kernel tells while a bridge with a pod comes up: the link-local address, from which it asks
// for the pod's MAC, is in use before the pods' subnet is there.
func TestBridgeAsksBeforeItRoutes(t *testing.T) {
	link := cni0()
	link.Sysctls = map[string]string{"ipv6/accept_dad": "0"}
	for _, disturb := range []string{"link del cni0", "link set cni0 down"} {
		t.Run(disturb, func(t *testing.T) {
			h := open(t)
			h.patience = 10 * time.Second // the order is the question, not the time
			setUp(t, underlay+`
link add pod1 type veth peer name in1
link set in1 up
link set pod1 up`)
			setAlias(t, h, "pod1", kernel.PodLinkAliasPrefix+"pod1/eth0")
			for i := range 100 {
				v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("a%d", i), Flags: net.FlagUp}, PeerName: fmt.Sprintf("b%d", i)}
				if err := h.links.LinkAdd(v); err != nil {
					t.Fatal(err)
				}
			}
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
			for range 20 {
				ip(t, disturb)
				wantAskingFirst(t, h, link)
			}
		})
	}
}

// wantAskingFirst applies a link that has to come up and follows the routes that come with it.
func wantAskingFirst(t *testing.T, h *Handle, link kernel.Link) {
	t.Helper()
	done := make(chan struct{})
	routes := make(chan netlink.RouteUpdate, 10000)
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ReceiveBufferSize: 16 << 20, ReceiveBufferForceSize: true}); err != nil {
		t.Fatal(err)
	}
	defer close(done)
	for i := range 100 { // what makes the kernel finish the bridge's address late
		d, err := h.findLink(fmt.Sprintf("b%d", i))
		if err == nil {
			err = h.links.LinkSetUp(d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
	wantLink(t, h, link)
	own, subnet := net.IP(linkLocal(link.MAC).AsSlice()), net.IP(link.Addresses[1].Masked().Addr().AsSlice())
	asks := false
	for {
		select {
		case r, ok := <-routes:
			switch {
			case !ok:
				t.Fatal("the kernel's notifications ended")
			case r.Type != unix.RTM_NEWROUTE || r.Dst == nil:
			case r.Dst.IP.Equal(own) && r.Route.Type == unix.RTN_LOCAL:
				asks = true
			case r.Dst.IP.Equal(subnet) && r.Route.Type == unix.RTN_UNICAST:
				if !asks {
					t.Errorf("the route to %v came before %v could be used", r.Dst, own)
				}
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no route to %v", subnet)
		}
	}
}
