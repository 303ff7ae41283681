package node

import (
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// render returns what the kernel should hold. When it returns an error, nothing must be changed.
func (s *server) render(snap store.Snapshot) (kernel.State, []store.Reject, error) {
	self := s.reg.Lease()
	links, err := s.backend.Links(s.uplink, self)
	if err != nil {
		return kernel.State{}, snap.Rejected, err
	}
	settled := s.learner == nil || s.learner.Settled() // asked first: what is learned from here on may be missing in the fragments
	fragments, rejected, err := s.backend.Fragments(s.uplink, self, snap.Leases)
	if err != nil {
		return kernel.State{}, snap.Rejected, err
	}
	mtu, err := s.backend.PodMTU(s.uplink)
	if err != nil {
		return kernel.State{}, snap.Rejected, err
	}
	state := kernel.State{
		Links:     append(links, s.bridge(self.Subnets(), mtu)),
		Fragments: fragments,
		KeepStale: !settled,
	}
	if s.n.opts.Tables != nil {
		state.Tables = s.n.opts.Tables(s.network, self.Subnets())
	}
	return state, append(rejected, snap.Rejected...), nil
}

// bridge returns the link that pods hang on. Plugins make it when they are faster; here it is kept.
func (s *server) bridge(subnets store.Subnets, mtu int) kernel.Link {
	link := kernel.Link{
		Name:   Bridge,
		MTU:    mtu,
		MAC:    s.bridgeMAC,
		Up:     true,
		Bridge: &kernel.Bridge{PortAliasPrefix: kernel.PodLinkAliasPrefix, Hairpin: true},
		// The kernel asks for a pod's MAC from the bridge's link-local address. Until duplicate address detection is through with that, a
		// second or two, it does not ask, and what comes for the pod is dropped. And no pod's router advertisement
		// turns the node's routes to itself (CVE-2020-10749).
		Sysctls: map[string]string{"ipv6/accept_dad": "0", "ipv6/accept_ra": "0"},
	}
	for _, subnet := range []netip.Prefix{subnets.IPv4, subnets.IPv6} {
		if subnet.IsValid() {
			link.Addresses = append(link.Addresses, Gateway(subnet))
		}
	}
	if link.MAC.IsZero() {
		link.MAC = kernel.BridgeMAC(link.Name, link.Addresses)
	}
	return link
}

// Gateway returns the address that pods of the subnet use as their gateway, the first after the base, with the subnet's length.
func Gateway(subnet netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
}
