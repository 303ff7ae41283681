package dnat

import (
	"time"

	"github.com/twill-cni/twill/kernel"
)

// Fixed chains that plans lead to.
const (
	insideChain = "inside"
	refuseChain = "refuse"
)

// chains returns the chains of a plan, its own first. What comes first in it holds for all clients; what is last drops packets that found nothing
// because they were on their way through the table while it changed, so that none leaves the node with a Service's address on it.
func (w words) chains(p Plan) []kernel.Chain {
	main := kernel.Chain{Name: p.String(), Rules: w.conditions(p)}
	priority := []kernel.Operand{kernel.FieldPriority}
	switch {
	case p.Choice == Reject:
		main.Rules = append(main.Rules, rule(kernel.Verdict{Kind: kernel.Goto, Chain: refuseChain}))
	case p.Choice == Drop:
		main.Rules = append(main.Rules, rule(kernel.Verdict{Kind: kernel.Drop}))
	case p.Sticky == 0:
		main.Rules = append(main.Rules, rule(kernel.SetPriority{}), // nothing of ours leaves the table in it
			rule(w.dnat(setEndpoints, w.choice(p))))
		if p.Slots > 1 {
			main.Rules = append(main.Rules, rule(w.dnat(setEndpoints, w.firstSlot(p))))
		}
		main.Rules = append(main.Rules, rule(kernel.Verdict{Kind: kernel.Drop}))
	default:
		core := p.core().String()
		stuck, choose := "stuck-"+core, "choose-"+core
		main.Rules = append(main.Rules,
			rule(kernel.SetPriority{Fields: w.client(), Map: setAffinity}, kernel.Verdict{Kind: kernel.Goto, Chain: stuck}),
			rule(kernel.Verdict{Kind: kernel.Goto, Chain: choose}))
		remember := rule(kernel.Update{Set: setAffinity, Key: w.client(), Value: priority, Timeout: time.Duration(p.Sticky) * time.Second})
		return []kernel.Chain{main,
			{Name: stuck, Rules: []kernel.Rule{
				remember, // the time starts anew
				rule(w.dnat(setMembers, kernel.FieldPriority)),
				rule(kernel.Delete{Set: setAffinity, Key: w.client(), Value: priority}), // the endpoint is gone
				rule(kernel.Verdict{Kind: kernel.Goto, Chain: choose}),
			}},
			{Name: choose, Rules: []kernel.Rule{
				rule(kernel.SetPriority{Fields: w.key(w.choice(p)), Map: setSlots}),
				remember, // in a rule of its own, which has no effect when there is no room
				rule(w.dnat(setMembers, kernel.FieldPriority)),
				rule(kernel.SetPriority{Fields: w.key(w.firstSlot(p)), Map: setSlots}),
				rule(w.dnat(setMembers, kernel.FieldPriority)),
				rule(kernel.Verdict{Kind: kernel.Drop}),
			}},
		}
	}
	return []kernel.Chain{main}
}

// conditions returns the rules for who the client is.
func (w words) conditions(p Plan) []kernel.Rule {
	var rules []kernel.Rule
	saddr := []kernel.Operand{w.saddr}
	if p.Guarded {
		rules = append(rules, rule(kernel.Lookup{Fields: w.key(w.saddr), Set: setRanges, Not: true}, kernel.Verdict{Kind: kernel.Drop}))
	}
	if p.Split {
		inside := kernel.Verdict{Kind: kernel.Goto, Chain: insideChain}
		rules = append(rules, rule(kernel.Lookup{Fields: saddr, Set: setPods}, inside),
			rule(kernel.Compare{Field: kernel.FieldFIBSaddrType, Value: kernel.Datum{Number: addrTypeLocal}}, inside))
	}
	mark := kernel.SetMark{Mask: w.mark, Value: w.mark}
	switch p.Masquerade {
	case Always:
		rules = append(rules, rule(mark))
	case OffCluster:
		rules = append(rules, rule(kernel.Lookup{Fields: saddr, Set: setPods, Not: true}, mark))
	case OffNode:
		rules = append(rules, rule(kernel.Lookup{Fields: saddr, Set: setNodePods, Not: true}, mark))
	}
	return rules
}

// choice returns the operand that is the number of a slot.
func (w words) choice(p Plan) kernel.Operand {
	offset := p.offset()
	hashed := func(fields ...kernel.Field) kernel.Operand {
		return kernel.Hash{Fields: fields, Modulus: p.Slots, Seed: seed, Offset: offset}
	}
	switch {
	case p.Slots == 1:
		return w.firstSlot(p)
	case p.Choice == RoundRobin:
		return kernel.Numgen{Modulus: p.Slots, Offset: offset}
	case p.Choice == DestinationHash:
		return hashed(w.daddr)
	case p.Choice == Maglev && p.Sticky == 0:
		return hashed(w.saddr, kernel.FieldSport)
	case p.Choice == Random && p.Sticky == 0:
		return kernel.Numgen{Random: true, Modulus: p.Slots, Offset: offset}
	}
	// With affinity, the client's address: a client for whom there is no room in the map of affinity keeps its endpoint even so.
	return hashed(w.saddr)
}

// firstSlot returns the operand for a slot that is there as long as there are any. A packet may have chosen among more slots
// than there are by the time that it looks into its own.
func (w words) firstSlot(p Plan) kernel.Operand { return kernel.Numgen{Modulus: 1, Offset: p.offset()} }

func (p Plan) offset() uint32 {
	if p.Inside {
		return insideOffset
	}
	return 0
}

func (w words) dnat(set string, last kernel.Operand) kernel.DNAT {
	return kernel.DNAT{Fields: w.key(last), Map: set, V6: w.v6()}
}
