package policytest

import (
	"net/netip"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// ICMP and ICMPv6 are protocols without ports.
const (
	ICMP   store.Protocol = 1
	ICMPv6 store.Protocol = 58
)

// Address returns an address that policies may have something to do with: mostly a pod's, else that of a node's bridge (the first one of its
// subnet), one in a node's subnet that may be nobody's, or one outside of the cluster.
func (c *Cluster) Address() netip.Addr {
	node := pick(c.rand, c.size.Nodes)
	subnets := valid(node.IPv4, node.IPv6)
	if len(c.Pods) > 0 && c.chance(0.75) {
		if pod := pick(c.rand, c.Pods); len(pod.Addrs) > 0 {
			return pick(c.rand, pod.Addrs)
		}
	}
	switch c.rand.IntN(3) {
	case 0:
		return advance(pick(c.rand, subnets).Addr(), 1)
	case 1:
		return advance(pick(c.rand, subnets).Addr(), 2+c.rand.Uint64N(12))
	}
	return advance(pick(c.rand, outside).Addr(), c.rand.Uint64N(256))
}

func valid(prefixes ...netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() {
			all = append(all, p)
		}
	}
	return all
}

// Flows returns n connections that are worth asking about: both ends in one family, and ports that policies and pods mean, or that lie beside these.
// Each begins or ends at a pod, where there are pods with addresses.
func (c *Cluster) Flows(n int) []policy.Flow {
	flows := make([]policy.Flow, 0, n)
	for len(flows) < n {
		flow := policy.Flow{Src: c.Address(), Dst: c.podAddress()}
		if flow.Src.Is4() != flow.Dst.Is4() {
			continue
		}
		if c.chance(0.3) {
			flow.Src, flow.Dst = flow.Dst, flow.Src
		}
		flow.Protocol, flow.Port = c.port(flow.Dst)
		flows = append(flows, flow)
	}
	return flows
}

func (c *Cluster) podAddress() netip.Addr {
	for range 10 {
		if len(c.Pods) == 0 {
			break
		}
		if pod := pick(c.rand, c.Pods); len(pod.Addrs) > 0 {
			return pick(c.rand, pod.Addrs)
		}
	}
	return c.Address()
}

// port returns a protocol and a port of it for a flow to dst.
func (c *Cluster) port(dst netip.Addr) (store.Protocol, uint16) {
	if c.chance(0.1) {
		if dst.Is4() {
			return ICMP, 0
		}
		return ICMPv6, 0
	}
	number := pick(c.rand, numbers)
	switch c.rand.IntN(6) {
	case 0:
		number-- // of the smallest one, too, is a port
	case 1:
		number = max(1, number+1)
	case 2:
		number = 1 + uint16(c.rand.IntN(65535))
	}
	return pick(c.rand, protocols), number
}
