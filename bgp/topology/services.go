package topology

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/bgp"
)

// services returns the addresses of Services that this node announces, sorted, each once. Whoever may write a
// Service chooses its external addresses, so those that would draw the traffic of somebody else in the cluster are left out.
func (v *view) services() []bgp.ServiceAddress {
	var all []bgp.ServiceAddress
	if !v.Config.Services.Nodes.Matches(v.Node.Name, v.Node.Labels) {
		return nil
	}
	taken, seen := v.taken(), map[netip.Prefix]bool{}
	for _, s := range slices.SortedFunc(slices.Values(v.Services), compareServices) {
		if seen[s.Prefix] || !v.Config.Services.Announces(s) {
			continue
		}
		seen[s.Prefix] = true
		addr := s.Prefix.Addr()
		whose := taken[addr]
		if v.Network.IPv4.Network.Contains(addr) || v.Network.IPv6.Network.Contains(addr) {
			whose = "the network of pods"
		}
		if whose != "" {
			v.reject(string(bgp.OriginService)+" "+s.Prefix.String(), errors.New("that is an address of "+whose+", which would lose its traffic"))
			continue
		}
		all = append(all, s)
	}
	return all
}

func compareServices(a, b bgp.ServiceAddress) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Kind, b.Kind))
}

// taken says whose the addresses are that no Service may have.
func (v *view) taken() map[netip.Addr]string {
	taken := map[netip.Addr]string{}
	for _, p := range v.Config.Peers {
		taken[p.Address.WithZone("")] = "peer " + p.Name
	}
	for _, l := range v.Leases {
		taken[l.PublicIP], taken[l.PublicIPv6] = "a node", "a node"
	}
	for _, p := range v.Uplink.Addresses {
		taken[p.Addr()] = "this node"
	}
	delete(taken, netip.Addr{})
	return taken
}

// hasServices reports whether a Service has an address within the prefix, announced or not. Then the kernel must not drop what fits no route:
// packets that the node itself sends to a Service need a route before they are translated, while those of others are translated first.
func (v *view) hasServices(p netip.Prefix) bool {
	return slices.ContainsFunc(v.Services, func(s bgp.ServiceAddress) bool { return p.Contains(s.Prefix.Addr()) })
}
