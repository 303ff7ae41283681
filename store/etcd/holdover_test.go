package etcd

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twill-cni/twill/store"
)

func held(n int) *store.Lease {
	return &store.Lease{
		Subnet:   netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", n>>8, n&255)),
		PublicIP: netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", n>>8, n&255)),
	}
}

// Thousands of nodes take their time to claim again. As long as they do, the rest of them is held.
func TestHoldoverLastsWhileNodesClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := []*store.Lease{held(1), held(2), held(3), held(4)}
		var h holdover
		h.begin(old, []*store.Lease{held(1)}, 15*time.Second)
		if len(h.leases) != 3 {
			t.Fatalf("%d leases are held, want 3", len(h.leases))
		}
		ended := func() bool {
			select {
			case <-h.ends():
				return true
			default:
				return false
			}
		}
		for n := 2; n < 4; n++ {
			time.Sleep(14 * time.Second)
			if changes := h.release(held(n)); len(changes) > 0 {
				t.Errorf("a claim of the same subnet removes %v", changes)
			}
			if ended() {
				t.Fatalf("ended %s after the last claim", 14*time.Second)
			}
		}
		time.Sleep(14 * time.Second)
		h.release(held(9)) // a new node
		time.Sleep(time.Second)
		synctest.Wait()
		if !ended() {
			t.Error("a node that was not held prolongs the holdover")
		}
		if changes := h.end(); len(changes) != 1 || changes[0].Subnets != old[3].Subnets() || changes[0].Lease != nil {
			t.Errorf("the end removes %v, want number 4", changes)
		}
		if h.ends() != nil {
			t.Error("nothing is held, but there is an end")
		}
	})
}

// A node that comes back with another subnet, or a subnet that comes back with another node, replaces what was held.
func TestHoldoverIsReplaced(t *testing.T) {
	moved := held(1)
	moved.Subnet = netip.MustParsePrefix("10.9.9.0/24")
	renumbered := held(2)
	renumbered.PublicIP = netip.MustParseAddr("192.168.9.9")
	var h holdover
	h.begin([]*store.Lease{held(1), held(2)}, nil, time.Hour)
	if changes := h.release(moved); len(changes) != 1 || changes[0].Subnets != held(1).Subnets() {
		t.Errorf("the node with another subnet removes %v", changes)
	}
	if changes := h.release(renumbered); len(changes) != 0 || len(h.leases) != 0 {
		t.Errorf("the subnet with another node removes %v, and %d are held", changes, len(h.leases))
	}
}
