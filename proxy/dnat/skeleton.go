package dnat

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// TableName is the name of the proxy's tables, one of family ip and one of family ip6.
const TableName = kernel.TablePrefix + "proxy"

// The sets and maps of the table. K stands for the destination's address, protocol and port.
const (
	setServices   = "services"          // K -> number of the frontend's plan
	setInside     = "inside"            // K -> number of its plan for clients inside of the cluster, where that differs
	setEndpoints  = "endpoints"         // K . slot -> address . port
	setSlots      = "slots"             // K . slot -> member
	setMembers    = "members"           // K . member -> address . port
	setClusterIPs = "cluster-addresses" // addresses of type ClusterIP
	setHairpin    = "hairpin"           // endpoint . the same endpoint

	setPlans           = "plans"        // number -> goto the plan's chain
	setInsidePlans     = "inside-plans" // the same for plans with Inside: one map for both would be a loop to the kernel
	setAffinity        = "affinity"     // client . K -> member
	setRanges          = "ranges"       // K . client's network
	setPods            = "pods"
	setNodePods        = "node-pods"
	setServiceNetworks = "service-networks"
)

// PlanSets are the names of the sets whose elements Adopt wants to see: the maps of plan numbers, and who may use guarded frontends.
func PlanSets() []string { return []string{setPlans, setInsidePlans, setRanges} }

const (
	// insideOffset is the slot from which on a frontend's slots are those for clients inside of the cluster. No frontend has more slots.
	insideOffset = 65536
	// scratchBit is set in the numbers of slots and members, and in no priority that the kernel or a program uses.
	scratchBit = 1 << 31
	// seed makes every node hash alike: with Maglev tables of their own, they then choose alike.
	seed = 0x7477696c

	addrTypeLocal = 2      // RTN_LOCAL
	ctInvalid     = 1      // NF_CT_STATE_INVALID_BIT
	ctStatusDNAT  = 1 << 5 // IPS_DST_NAT
)

// Config is what the table depends on beside the Services. Networks of the other family are left out.
type Config struct {
	Family          kernel.TableFamily // FamilyIPv4 or FamilyIPv6
	PodNetworks     []netip.Prefix     // of the whole cluster
	NodePodNetworks []netip.Prefix     // of this node's pods
	ServiceNetworks []netip.Prefix     // the ranges of ClusterIPs: one that no Service has is dropped
	MasqueradeBit   uint8              // of the packet mark, 0 to 31
	MasqueradeAll   bool               // connections to ClusterIPs get the node's address whoever the client is
	// DropInvalid drops forwarded packets that belong to no connection, as conntrack sees it. A reply that is out of the window is not
	// translated back, and would make the client reset its connection (kubernetes #74839).
	DropInvalid bool
	// MasqueradeBridged gives the node's address to connections of the node's pods to pods of the node through a Service. It is for a node without
	// br_netfilter: what one port of the bridge sends to another does not pass netfilter there, so that replies would not be translated back.
	MasqueradeBridged bool
	AffinitySize      uint32 // the most clients that are remembered; above, a client's address alone decides
}

// Equal reports whether c and o make the same table.
func (c Config) Equal(o Config) bool {
	return c.Family == o.Family && c.MasqueradeBit == o.MasqueradeBit && c.MasqueradeAll == o.MasqueradeAll && c.DropInvalid == o.DropInvalid &&
		c.AffinitySize == o.AffinitySize && c.MasqueradeBridged == o.MasqueradeBridged && slices.Equal(c.PodNetworks, o.PodNetworks) && slices.Equal(c.NodePodNetworks, o.NodePodNetworks) &&
		slices.Equal(c.ServiceNetworks, o.ServiceNetworks)
}

func (c Config) v6() bool { return c.Family == kernel.FamilyIPv6 }

// words are the parts of rules that differ between the families.
type words struct {
	Config
	saddr, daddr kernel.Field
	addr         kernel.Type
	mark         uint32
}

func (c Config) words() words {
	w := words{Config: c, saddr: kernel.FieldIPSaddr, daddr: kernel.FieldIPDaddr, addr: kernel.TypeIPv4Addr, mark: 1 << c.MasqueradeBit}
	if c.v6() {
		w.saddr, w.daddr, w.addr = kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, kernel.TypeIPv6Addr
	}
	return w
}

// key returns K, followed by more operands.
func (w words) key(more ...kernel.Operand) []kernel.Operand {
	return append([]kernel.Operand{w.daddr, kernel.FieldL4Proto, kernel.FieldDport}, more...)
}

// client returns the key of the affinity map.
func (w words) client() []kernel.Operand { return append([]kernel.Operand{w.saddr}, w.key()...) }

// Skeleton returns the table without what its Bulk sets hold: the fixed chains, the chains of the given plans, and ranges, which are the
func Skeleton(c Config, plans []NumberedPlan, ranges []kernel.Element) kernel.Table {
	w := c.words()
	t := kernel.Table{Family: c.Family, Name: TableName, Sets: w.sets(), Chains: w.fixedChains()}
	seen := map[string]bool{}
	var main, inside []kernel.Element
	for _, p := range plans {
		chains := w.chains(p.Plan)
		e := kernel.Element{Key: []kernel.Datum{{Number: p.Number}},
			Value: []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: chains[0].Name}}}}
		if p.Plan.Inside {
			inside = append(inside, e)
		} else {
			main = append(main, e)
		}
		for _, chain := range chains {
			if !seen[chain.Name] {
				seen[chain.Name] = true
				t.Chains = append(t.Chains, chain)
			}
		}
	}
	for i := range t.Sets {
		switch s := &t.Sets[i]; s.Name {
		case setPlans:
			s.Elements = main
		case setInsidePlans:
			s.Elements = inside
		case setRanges:
			s.Elements = ranges
		}
	}
	return t
}

// NumberedPlan is a plan with the number that stands for it in the kernel.
type NumberedPlan struct {
	Number uint32
	Plan   Plan
}

func (w words) sets() []kernel.Set {
	k := func(more ...kernel.Type) []kernel.Type {
		return append([]kernel.Type{w.addr, kernel.TypeInetProto, kernel.TypeInetService}, more...)
	}
	number, target := []kernel.Type{kernel.TypePriority}, []kernel.Type{w.addr, kernel.TypeInetService}
	verdict := []kernel.Type{kernel.TypeVerdict}
	network := func(name, comment string, networks []netip.Prefix) kernel.Set {
		return kernel.Set{Name: name, Comment: comment, Key: []kernel.Type{w.addr}, Interval: true, Elements: prefixElements(networks, w.v6())}
	}
	return []kernel.Set{
		{Name: setServices, Comment: "frontend -> plan", Key: k(), Value: number, Bulk: true, Counted: true},
		{Name: setInside, Comment: "frontend -> plan for clients inside of the cluster", Key: k(), Value: number, Bulk: true},
		{Name: setEndpoints, Comment: "frontend, slot -> endpoint", Key: k(kernel.TypePriority), Value: target, Bulk: true},
		{Name: setSlots, Comment: "frontend with affinity, slot -> member", Key: k(kernel.TypePriority), Value: number, Bulk: true},
		{Name: setMembers, Comment: "frontend with affinity, member -> endpoint", Key: k(kernel.TypePriority), Value: target, Bulk: true},
		{Name: setAffinity, Comment: "client, frontend -> member; written by packets",
			Key: append([]kernel.Type{w.addr}, k()...), Value: number, Size: max(w.AffinitySize, 1), Dynamic: true, Foreign: true, Timeout: true},
		{Name: setClusterIPs, Comment: "other ports of these are rejected", Key: []kernel.Type{w.addr}, Bulk: true},
		{Name: setHairpin, Comment: "endpoints of this node, to themselves", Key: []kernel.Type{w.addr, w.addr}, Bulk: true},
		{Name: setPlans, Comment: "plan -> chain", Key: number, Value: verdict},
		{Name: setInsidePlans, Comment: "plan for clients inside of the cluster -> chain", Key: number, Value: verdict},
		{Name: setRanges, Comment: "guarded frontend, client that is allowed", Key: k(w.addr), Interval: true},
		network(setPods, "pods of the cluster", w.PodNetworks),
		network(setNodePods, "pods of this node", w.NodePodNetworks),
		network(setServiceNetworks, "where nobody has an address, packets are dropped", w.ServiceNetworks),
	}
}

// Passing returns a skeleton that lets packets pass to addresses of Services that nobody has. The table that it belongs to does not know all
// Services yet.
func Passing(skeleton kernel.Table) kernel.Table {
	skeleton.Sets = slices.Clone(skeleton.Sets)
	for i := range skeleton.Sets {
		if s := &skeleton.Sets[i]; s.Name == setServiceNetworks {
			s.Elements = nil
		}
	}
	return skeleton
}

func rule(exprs ...kernel.Expr) kernel.Rule { return kernel.Rule{Exprs: exprs} }

func (w words) fixedChains() []kernel.Chain {
	const dispatch = "dispatch"
	chains := []kernel.Chain{
		{Name: "prerouting", Hook: &kernel.Hook{Type: "nat", Hook: "prerouting", Priority: -100},
			Rules: []kernel.Rule{rule(kernel.Verdict{Kind: kernel.Jump, Chain: dispatch})}},
		{Name: "output", Hook: &kernel.Hook{Type: "nat", Hook: "output", Priority: -100},
			Rules: []kernel.Rule{rule(kernel.Verdict{Kind: kernel.Jump, Chain: dispatch})}},
		{Name: "postrouting", Hook: &kernel.Hook{Type: "nat", Hook: "postrouting", Priority: 100}, Rules: w.postrouting()},
		{Name: dispatch, Rules: []kernel.Rule{
			rule(kernel.SetPriority{Fields: w.key(), Map: setServices}, kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldPriority}, Map: setPlans}),
			rule(kernel.Lookup{Fields: []kernel.Operand{w.daddr}, Set: setClusterIPs},
				kernel.Verdict{Kind: kernel.Goto, Chain: refuseChain}),
			rule(kernel.Lookup{Fields: []kernel.Operand{w.daddr}, Set: setServiceNetworks}, kernel.Verdict{Kind: kernel.Drop}),
		}},
		{Name: insideChain, Rules: []kernel.Rule{
			rule(kernel.SetPriority{Fields: w.key(), Map: setInside}, kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldPriority}, Map: setInsidePlans}),
			rule(kernel.Verdict{Kind: kernel.Drop}),
		}},
		{Name: refuseChain, Rules: []kernel.Rule{
			rule(kernel.Compare{Field: kernel.FieldL4Proto, Value: kernel.Datum{Number: uint32(store.TCP)}}, kernel.Reject{Reset: true}),
			rule(kernel.Reject{}),
		}},
	}
	chains = append(chains, w.endpoint(false), w.endpoint(true))
	if w.DropInvalid {
		chains = append(chains, kernel.Chain{Name: "forward", Hook: &kernel.Hook{Type: "filter", Hook: "forward"}, Rules: []kernel.Rule{
			rule(kernel.Compare{Field: kernel.FieldCTState, Mask: ctInvalid, Value: kernel.Datum{Number: ctInvalid}}, kernel.Verdict{Kind: kernel.Drop})}})
	}
	return chains
}

// postrouting undoes what is only for between the hooks, and gives the node's address to connections that need it.
func (w words) postrouting() []kernel.Rule {
	marked := kernel.Compare{Field: kernel.FieldMark, Mask: w.mark, Value: kernel.Datum{Number: w.mark}}
	masquerade := kernel.Masquerade{FullyRandom: true}
	rules := []kernel.Rule{
		// A slot's or member's number is still in the priority of what the node itself sends. A queueing discipline might take it for a class.
		rule(kernel.Compare{Field: kernel.FieldPriority, Mask: scratchBit, Value: kernel.Datum{Number: scratchBit}}, kernel.SetPriority{}),
		rule(marked, kernel.SetMark{Mask: w.mark}, masquerade),
		rule(kernel.Compare{Field: kernel.FieldCTStatus, Mask: ctStatusDNAT, Value: kernel.Datum{Number: ctStatusDNAT}},
			kernel.Lookup{Fields: []kernel.Operand{w.saddr, w.daddr}, Set: setHairpin}, masquerade),
	}
	if w.MasqueradeBridged {
		rules = append(rules, rule(kernel.Compare{Field: kernel.FieldCTStatus, Mask: ctStatusDNAT, Value: kernel.Datum{Number: ctStatusDNAT}},
			kernel.Lookup{Fields: []kernel.Operand{w.saddr}, Set: setNodePods}, kernel.Lookup{Fields: []kernel.Operand{w.daddr}, Set: setNodePods}, masquerade))
	}
	return rules
}
