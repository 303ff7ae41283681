package gate

import (
	"net/netip"

	"github.com/twill-cni/twill/kernel"
)

const (
	ctEstablished = 1 << 1 // NF_CT_STATE_BIT(IP_CT_ESTABLISHED)
	ctRelated     = 1 << 2

	protoTCP, protoUDP, protoSCTP, protoICMPv6 = 6, 17, 132, 58
)

// Closed returns the table that knows no pod, so that every address in NodePods is closed.
func Closed(c Config) kernel.Table {
	t := kernel.Table{Family: Family, Name: TableName}
	for i, v := range Versions() {
		t.Sets = append(t.Sets, v.sets(c.NodePods, i == 1)...)
	}
	number := []kernel.Type{kernel.TypePriority}
	port := []kernel.Type{kernel.TypePriority, kernel.TypeInetProto, kernel.TypeInetService}
	t.Sets = append(t.Sets,
		kernel.Set{Name: SetPairs, Comment: "subject, class -> ports", Key: []kernel.Type{kernel.TypeNumber, kernel.TypePriority}, Value: number, Bulk: true},
		kernel.Set{Name: SetPorts, Comment: "ports, protocol, port", Key: port, Bulk: true},
		kernel.Set{Name: SetRanges, Comment: "ports, protocol, range of ports", Key: port, Interval: true, Ahead: true},
		kernel.Set{Name: SetPorted, Comment: "protocols with ports", Key: []kernel.Type{kernel.TypeInetProto}, Elements: []kernel.Element{
			{Key: []kernel.Datum{{Number: protoTCP}}}, {Key: []kernel.Datum{{Number: protoUDP}}}, {Key: []kernel.Datum{{Number: protoSCTP}}},
		}},
	)
	t.Chains = append(t.Chains, c.baseChains()...)
	t.Chains = append(t.Chains, discovery(), c.source(), ends(ChainTarget),
		kernel.Chain{Name: ChainOpen, Rules: []kernel.Rule{rule(returned)}}, classes(ChainDestinationClass), classes(ChainSourceClass))
	t.Chains = append(t.Chains, results(ChainEgressResult, ChainRefuseEgress)...)
	t.Chains = append(t.Chains, results(ChainIngressResult, ChainRefuseIngress)...)
	return kernel.Table{Family: t.Family, Name: t.Name, Sets: t.Sets, Chains: append(t.Chains,
		kernel.Chain{Name: ChainRefuseCut, Rules: []kernel.Rule{rule(kernel.Counter{}, dropped)}},
		c.refuse(ChainRefuseUnknown, LogUnknown), c.refuse(ChainRefuseEgress, LogEgress), c.refuse(ChainRefuseIngress, LogIngress))}
}

func (v Version) sets(nodePods []netip.Prefix, v6 bool) []kernel.Set {
	addr, class := []kernel.Type{v.Addr}, []kernel.Type{kernel.TypePriority}
	verdict := []kernel.Type{kernel.TypeVerdict}
	return []kernel.Set{
		{Name: v.NodePods, Comment: "pods of this node; closed, unless known", Key: addr, Interval: true, Elements: networks(nodePods, v6)},
		{Name: v.Egress, Comment: "pod of this node -> its egress policies", Key: addr, Value: verdict},
		{Name: v.Ingress, Comment: "pod of this node -> its ingress policies", Key: addr, Value: verdict},
		{Name: v.Self, Comment: "pod of this node, itself", Key: []kernel.Type{v.Addr, v.Addr}},
		{Name: v.Networks, Comment: "addresses that policies tell apart -> class", Key: addr, Value: class, Interval: true},
		{Name: v.Pods, Comment: "pod of the cluster -> class", Key: addr, Value: class, Bulk: true},
	}
}

// networks returns the prefixes of a family as elements, without those that are within another.
func networks(prefixes []netip.Prefix, v6 bool) []kernel.Element {
	var out []kernel.Element
	for i, p := range prefixes {
		within := func() bool {
			for j, o := range prefixes {
				if o.Bits() >= 0 && o.Contains(p.Addr()) && (o.Bits() < p.Bits() || o.Bits() == p.Bits() && j < i) {
					return true
				}
			}
			return false
		}
		if p.Addr().Is6() == v6 && !within() {
			out = append(out, kernel.Element{Key: []kernel.Datum{{Prefix: p.Masked()}}})
		}
	}
	return out
}

var (
	accepted = kernel.Verdict{Kind: kernel.Accept}
	dropped  = kernel.Verdict{Kind: kernel.Drop}
	returned = kernel.Verdict{Kind: kernel.Return}
)

func rule(exprs ...kernel.Expr) kernel.Rule       { return kernel.Rule{Exprs: exprs} }
func fields(f ...kernel.Operand) []kernel.Operand { return f }
func jump(chain string) kernel.Expr               { return kernel.Verdict{Kind: kernel.Jump, Chain: chain} }
func to(chain string) kernel.Expr                 { return kernel.Verdict{Kind: kernel.Goto, Chain: chain} }

// bits matches a field that has all the bits.
func bits(f kernel.Field, mask uint32) kernel.Expr {
	return kernel.Compare{Field: f, Mask: mask, Value: kernel.Datum{Number: mask}}
}

func (c Config) baseChains() []kernel.Chain {
	var both []kernel.Rule
	if c.CutMark != 0 {
		both = append(both, rule(bits(kernel.FieldCTMark, c.CutMark), to(ChainRefuseCut)))
	}
	both = append(both,
		rule(kernel.Compare{Field: kernel.FieldCTState, Mask: ctEstablished | ctRelated, Not: true}, accepted),
		rule(kernel.Compare{Field: kernel.FieldL4Proto, Value: kernel.Datum{Number: protoICMPv6}}, jump(ChainDiscovery)))
	forward := append([]kernel.Rule{}, both...)
	for _, v := range Versions() {
		forward = append(forward, rule(kernel.Lookup{Fields: fields(v.Saddr, v.Daddr), Set: v.Self}, accepted))
	}
	forward = append(forward, rule(jump(ChainSource)), rule(jump(ChainTarget)))
	// What the node sends to itself may have the bridge's address, which is in the networks of its pods.
	input := append([]kernel.Rule{rule(kernel.Compare{Field: kernel.FieldIIFName, Value: kernel.Datum{Name: "lo"}}, accepted)}, both...)
	input = append(input, rule(jump(ChainSource)))
	return []kernel.Chain{
		{Name: ChainForward, Hook: &kernel.Hook{Type: "filter", Hook: "forward"}, Rules: forward},
		{Name: ChainInput, Hook: &kernel.Hook{Type: "filter", Hook: "input"}, Rules: input},
	}
}

// discovery accepts neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).
func discovery() kernel.Chain {
	c := kernel.Chain{Name: ChainDiscovery, Comment: "neighbours, routers and multicast listeners"}
	for _, kind := range []uint32{135, 136, 133, 134, 137, 130, 131, 132, 143} {
		c.Rules = append(c.Rules, rule(kernel.Compare{Field: kernel.FieldICMPv6Type, Value: kernel.Datum{Number: kind}}, accepted))
	}
	return c
}

// ends returns the chain that asks the policies of a packet's source or destination. Chains of subjects are reached by goto, so that what they allow
// returns to the base chain.
func ends(name string) kernel.Chain {
	c := kernel.Chain{Name: name}
	for _, v := range Versions() {
		addr, local := v.Saddr, v.Egress
		if name == ChainTarget {
			addr, local = v.Daddr, v.Ingress
		}
		c.Rules = append(c.Rules, rule(kernel.VerdictMap{Fields: fields(addr), Map: local}),
			rule(kernel.Lookup{Fields: fields(addr), Set: v.NodePods}, to(ChainRefuseUnknown)))
	}
	return c
}

// source returns the chain that asks the policies of a packet's source. Whatever the bridge brings is a pod's: with an address that is not its own, or with
// the one that its link has by itself (RFC 4291, section 2.5.6), it would escape them.
func (c Config) source() kernel.Chain {
	chain := ends(ChainSource)
	if c.Bridge != "" {
		chain.Rules = append(chain.Rules, rule(kernel.Compare{Field: kernel.FieldIIFName, Value: kernel.Datum{Name: c.Bridge}}, to(ChainRefuseUnknown)))
	}
	return chain
}

// classes returns the chain that sets the priority to the class of a packet's destination or source.
func classes(name string) kernel.Chain {
	c := kernel.Chain{Name: name}
	for _, v := range Versions() {
		addr := v.Daddr
		if name == ChainSourceClass {
			addr = v.Saddr
		}
		c.Rules = append(c.Rules, rule(kernel.SetPriority{Fields: fields(addr), Map: v.Pods}, returned),
			rule(kernel.SetPriority{Fields: fields(addr), Map: v.Networks}, returned))
	}
	c.Rules = append(c.Rules, rule(kernel.SetPriority{}))
	return c
}

// results returns the chains that decide by the number of ports in the priority: for all packets, for those with ports, and for those with ports when
// the sets hold what is closed. A packet that is allowed returns with the priority 0.
func results(name, refuse string) []kernel.Chain {
	ports, allBut := name+"-ports", name+"-all-but"
	key := fields(kernel.FieldPriority, kernel.FieldL4Proto, kernel.FieldDport)
	open := func(when ...kernel.Expr) kernel.Rule { return rule(append(when, kernel.SetPriority{}, returned)...) }
	listed, inRange := kernel.Lookup{Fields: key, Set: SetPorts}, kernel.Lookup{Fields: key, Set: SetRanges}
	return []kernel.Chain{
		{Name: name, Rules: []kernel.Rule{
			open(kernel.Compare{Field: kernel.FieldPriority, Value: kernel.Datum{Number: PortsAll}}),
			rule(kernel.Lookup{Fields: fields(kernel.FieldL4Proto), Set: SetPorted}, to(ports)),
			open(bits(kernel.FieldPriority, FlagNoPorts)),
			rule(to(refuse)),
		}},
		{Name: ports, Rules: []kernel.Rule{
			rule(bits(kernel.FieldPriority, FlagAllBut), to(allBut)),
			open(listed),
			open(inRange),
			rule(to(refuse)),
		}},
		{Name: allBut, Rules: []kernel.Rule{
			rule(listed, to(refuse)),
			rule(inRange, to(refuse)),
			open(),
		}},
	}
}

// refuse returns the chain that drops packets and tells of some.
func (c Config) refuse(name, prefix string) kernel.Chain {
	chain := kernel.Chain{Name: name}
	if c.LogRate > 0 {
		chain.Rules = append(chain.Rules, rule(kernel.Limit{Rate: c.LogRate, Burst: max(c.LogBurst, 1)},
			kernel.Log{Group: c.LogGroup, Prefix: prefix, Length: LogLength}))
	}
	chain.Rules = append(chain.Rules, rule(kernel.Counter{}, dropped))
	return chain
}
