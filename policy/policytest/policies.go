package policytest

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

func (c *Cluster) policy(name store.ObjectName) *store.NetworkPolicy {
	p := &store.NetworkPolicy{Name: name, Pods: c.selector()}
	directions := 1 + c.rand.IntN(3)
	p.IsolatesIngress, p.IsolatesEgress = directions&1 != 0, directions&2 != 0
	if p.IsolatesIngress {
		p.Ingress = c.rules()
	}
	if p.IsolatesEgress {
		p.Egress = c.rules()
	}
	return p
}

func (c *Cluster) rules() []store.PolicyRule {
	var rules []store.PolicyRule
	for range c.rand.IntN(4) {
		rule := store.PolicyRule{Ports: c.ports(false)}
		if !c.chance(c.size.Anywhere) {
			for range 1 + c.rand.IntN(3) {
				rule.Peers = append(rule.Peers, c.peer(false))
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

func (c *Cluster) clusterPolicy(name string) *store.ClusterNetworkPolicy {
	return &store.ClusterNetworkPolicy{
		Name:       name,
		Tier:       pick(c.rand, []store.PolicyTier{store.TierAdmin, store.TierBaseline}),
		Priority:   c.rand.IntN(4), // few, so that there are ties
		Namespaces: c.selector(),
		Pods:       c.selector(),
		Ingress:    c.clusterRules(false),
		Egress:     c.clusterRules(true),
	}
}

// clusterRules returns rules; those for egress may have address blocks, the others may not.
func (c *Cluster) clusterRules(blocks bool) []store.ClusterPolicyRule {
	var rules []store.ClusterPolicyRule
	for range c.rand.IntN(4) {
		rule := store.ClusterPolicyRule{Action: pick(c.rand, []store.PolicyAction{store.ActionAccept, store.ActionDeny, store.ActionPass})}
		if c.chance(0.5) {
			rule.Name = c.name("rule")
		}
		pods := true
		for range 1 + c.rand.IntN(2) {
			peer := c.peer(true)
			if blocks && c.chance(0.4) {
				peer = store.PolicyPeer{Block: c.block()}
				pods = false
			}
			rule.Peers = append(rule.Peers, peer)
		}
		rule.Ports = c.ports(true)
		if !pods { // networks have no named ports, says the API
			rule.Ports = slices.DeleteFunc(rule.Ports, func(p store.PolicyPort) bool { return p.Name != "" })
		}
		rules = append(rules, rule)
	}
	return rules
}

// peer returns a peer; those of cluster policies select pods by their namespaces, too, and have no address blocks here.
func (c *Cluster) peer(cluster bool) store.PolicyPeer {
	namespaces, pods := c.selector(), c.selector()
	switch {
	case cluster && c.chance(0.5):
		return store.PolicyPeer{Namespaces: &namespaces}
	case cluster:
		return store.PolicyPeer{Namespaces: &namespaces, Pods: &pods}
	}
	switch c.rand.IntN(4) {
	case 0:
		return store.PolicyPeer{Pods: &pods}
	case 1:
		return store.PolicyPeer{Namespaces: &namespaces}
	case 2:
		return store.PolicyPeer{Namespaces: &namespaces, Pods: &pods}
	}
	peer := store.PolicyPeer{Block: c.block()}
	for range c.rand.IntN(3) {
		if except := c.narrower(peer.Block); except.Bits() > peer.Block.Bits() {
			peer.Except = append(peer.Except, except)
		}
	}
	return peer
}

// block returns an address block around a pod, a node's subnet or something outside of the cluster.
func (c *Cluster) block() netip.Prefix {
	if c.chance(0.1) {
		return pick(c.rand, everywhere)
	}
	addr := c.Address()
	widths := []int{0, 1, 2, 3, 4, 6, 8, 12}
	block, _ := addr.Prefix(addr.BitLen() - pick(c.rand, widths))
	return block
}

// narrower returns a part of the block, if possible one with something in it.
func (c *Cluster) narrower(block netip.Prefix) netip.Prefix {
	addr := c.Address()
	for range 20 {
		if block.Contains(addr) {
			break
		}
		addr = c.Address()
	}
	if !block.Contains(addr) {
		addr = block.Addr()
	}
	room := addr.BitLen() - block.Bits()
	if room == 0 {
		return block
	}
	part, _ := addr.Prefix(block.Bits() + 1 + c.rand.IntN(room))
	return part
}

func (c *Cluster) ports(cluster bool) []store.PolicyPort {
	if c.chance(0.3) {
		return nil
	}
	var ports []store.PolicyPort
	for range 1 + c.rand.IntN(3) {
		port := store.PolicyPort{Protocol: pick(c.rand, protocols)}
		switch c.rand.IntN(5) {
		case 0:
			if cluster { // has no other form for every port
				port.Port, port.EndPort = 1, 65535
			}
		case 1:
			port.Name = pick(c.rand, names)
			if cluster {
				port.Protocol = 0
			}
		case 2:
			port.Port = pick(c.rand, numbers)
			port.EndPort = port.Port + uint16(c.rand.IntN(int(min(65535-port.Port, 2000))+1))
			if cluster && port.EndPort == port.Port { // is a number there, and no range
				port.EndPort = 0
			}
		default:
			port.Port = pick(c.rand, numbers)
		}
		ports = append(ports, port)
	}
	return ports
}

func (c *Cluster) selector() store.Selector {
	var all []store.Requirement
	for range c.rand.IntN(3) {
		r := store.Requirement{Key: pick(c.rand, keys), Operator: pick(c.rand, allOperators)}
		if r.Operator == store.SelectorIn || r.Operator == store.SelectorNotIn {
			for range 1 + c.rand.IntN(3) {
				r.Values = append(r.Values, pick(c.rand, values))
			}
		}
		all = append(all, r)
	}
	return store.NewSelector(all...)
}
