package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/store"
)

// node is another BGP node.
type node struct {
	bgp.LeaseData
	key     string // of its lease
	address netip.Addr
	near    bool // on the uplink's own network
	inside  bool // of this node's AS
}

// readLeases finds the other BGP nodes. Nodes with another backend are no concern of BGP.
func (v *view) readLeases() {
	leases := slices.Clone(v.Leases)
	slices.SortFunc(leases, func(a, b *store.Lease) int { return a.Subnets().Compare(b.Subnets()) })
	at := map[netip.Addr]*node{}
	for _, l := range leases {
		if l.BackendType != bgp.BackendType || l.Subnets() == v.Self.Subnets() {
			continue
		}
		n, err := v.readLease(l)
		if err != nil {
			v.reject(l.Key(), err)
			continue
		}
		if first := at[n.address]; first != nil {
			// The lease of a node that got other subnets lives on for a while. It matters only when it says something else.
			if !reflect.DeepEqual(first.LeaseData, n.LeaseData) {
				v.reject(n.key, fmt.Errorf("lease %s has the same address %s and says something else of BGP", first.key, n.address))
			}
			continue
		}
		at[n.address] = n
		v.nodes = append(v.nodes, n)
	}
	slices.SortFunc(v.nodes, func(a, b *node) int { return a.address.Compare(b.address) })
}

func (v *view) readLease(l *store.Lease) (*node, error) {
	data, err := v.decode(l)
	if err != nil {
		return nil, err
	}
	n := &node{LeaseData: data, key: l.Key(), inside: data.AS == v.Node.AS}
	for _, ipv6 := range []bool{true, false} {
		if addr := publicOf(l, ipv6); addr.IsValid() && publicOf(v.Self, ipv6).IsValid() {
			n.address = addr
		}
	}
	switch {
	case !n.address.IsValid():
		return nil, errors.New("it has no public address of a family that this node has one of")
	case !n.address.IsGlobalUnicast():
		return nil, fmt.Errorf("public address %s is no unicast address", n.address)
	case n.address == v.Self.PublicIP || n.address == v.Self.PublicIPv6:
		return nil, fmt.Errorf("public address %s is this node's own", n.address)
	case n.Node == v.Node.Name:
		return nil, fmt.Errorf("it bears this node's own name, %s", n.Node)
	case n.inside && n.RouterID == v.routerID:
		return nil, fmt.Errorf("router ID %s is this node's own; give one of them another (routerID)", n.RouterID)
	}
	n.near = v.Uplink.OnLink(n.address)
	return n, nil
}

// hearsOf reports whether the node publishes that it hears the reflector with this name.
func (n *node) hearsOf(name string) bool { return slices.Contains(n.Hears, name) }

// reflects reports whether the node is a reflector that takes on clients.
func (n *node) reflects() bool { return n.Reflector != nil && !n.Reflector.Leaving }
