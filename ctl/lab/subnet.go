package lab

import (
	"fmt"
	"net/netip"
)

const (
	bridge        = "br0"  // of a lab whose nodes share one subnet
	uplink        = "eth0" // of a node
	nodesPerNet   = 250    // one subnet: node 250 is 172.30.1.250, node 251 is 172.30.2.1
	maxSubnets    = 250
	gatewayNumber = 254 // several subnets: the last byte of the router's address in each
)

// The underlay's addresses are the same in every lab: labs do not see each other.
var (
	gatewayV4 = netip.MustParsePrefix("172.30.0.1/16")
	gatewayV6 = netip.MustParsePrefix("fd00:30::1/64")
)

// subnet is one broadcast domain of the underlay: a bridge in the underlay's namespace, whose addresses are the nodes' gateway. When
// there are several, that namespace routes between them.
type subnet struct {
	bridge string
	v4, v6 netip.Prefix // the bridge's own address, and how long the subnet is
}

// subnet returns the subnet with this number, from 1.
//
//	one      br0   172.30.0.1/16     fd00:30::1/64
//	several  br1   172.30.1.254/24   fd00:30:0:1::fe/64    br2   172.30.2.254/24 ...
func (o Options) subnet(number int) subnet {
	if o.Subnets == 1 {
		return subnet{bridge: bridge, v4: gatewayV4, v6: gatewayV6}
	}
	four, six := subnetAddrs(number, gatewayNumber)
	return subnet{bridge: fmt.Sprintf("br%d", number), v4: netip.PrefixFrom(four, 24), v6: netip.PrefixFrom(six, 64)}
}

func (o Options) subnets() []subnet {
	var all []subnet
	for number := range o.Subnets {
		all = append(all, o.subnet(1+number))
	}
	return all
}

// subnetOf returns the number of the subnet that the node with this number, from 1, is in: nodes are dealt out in turn, so that
// it does not depend on how many there will be.
func (o Options) subnetOf(node int) int { return 1 + (node-1)%o.Subnets }

// nodeAddrs returns the addresses of the node with this number, from 1.
func (o Options) nodeAddrs(number int) (v4, v6 netip.Addr) {
	if o.Subnets > 1 {
		return subnetAddrs(o.subnetOf(number), byte(1+(number-1)/o.Subnets))
	}
	net, host := byte(1+(number-1)/nodesPerNet), byte(1+(number-1)%nodesPerNet)
	four := gatewayV4.Addr().As4()
	four[2], four[3] = net, host
	six := gatewayV6.Addr().As16()
	six[13], six[15] = net, host
	return netip.AddrFrom4(four), netip.AddrFrom16(six)
}

// maxNodes returns for how many nodes there are addresses.
func (o Options) maxNodes() int {
	if o.Subnets > 1 {
		return nodesPerNet * o.Subnets
	}
	return nodesPerNet * 255
}

func subnetAddrs(number int, host byte) (v4, v6 netip.Addr) {
	four := gatewayV4.Addr().As4()
	four[2], four[3] = byte(number), host
	six := gatewayV6.Addr().As16()
	six[7], six[15] = byte(number), host
	return netip.AddrFrom4(four), netip.AddrFrom16(six)
}

// families returns those of the two prefixes whose family the lab has.
func (o Options) families(v4, v6 netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	if o.Family.V4() && v4.IsValid() {
		list = append(list, v4)
	}
	if o.Family.V6() && v6.IsValid() {
		list = append(list, v6)
	}
	return list
}

// Subnets returns the underlay's subnets as the router's addresses in them, each with the subnet's length: for each subnet those of
// the lab's family, IPv4 first.
func (l *Lab) Subnets() [][]netip.Prefix {
	var list [][]netip.Prefix
	for _, s := range l.options.subnets() {
		list = append(list, l.options.families(s.v4, s.v6))
	}
	return list
}

// subnet returns the node's subnet.
func (n *Node) subnet() subnet { return n.lab.options.subnet(n.Subnet()) }

// Subnet returns the number, from 1, of the underlay's subnet that the node is in.
func (n *Node) Subnet() int { return n.lab.options.subnetOf(n.record.Number) }
