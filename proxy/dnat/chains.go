package dnat

import (
	"fmt"
	"time"

	"github.com/twill-cni/twill/kernel"
)

// Fixed chains that plans lead to.
const (
	insideChain   = "inside"
	refuseChain   = "refuse"
	endpointChain = "endpoint"
)

// chains returns the chains of a plan, its own first. They look into no large map: when a rule that does so is made, the kernel walks through all of the
// map (nf_tables_bind_set), so those are in chains that stay.
func (w words) chains(p Plan) []kernel.Chain {
	main := kernel.Chain{Name: p.String(), Rules: w.conditions(p)}
	to := func(chain string) kernel.Expr { return kernel.Verdict{Kind: kernel.Goto, Chain: chain} }
	choose := kernel.SetPriority{Fields: []kernel.Operand{w.choice(p)}}
	switch {
	case p.Choice == Reject:
		main.Rules = append(main.Rules, rule(to(refuseChain)))
	case p.Choice == Drop:
		main.Rules = append(main.Rules, rule(kernel.Verdict{Kind: kernel.Drop}))
	case p.Sticky == 0:
		main.Rules = append(main.Rules, rule(choose, to(suffixed(endpointChain, p.Inside))))
	default:
		timeout := fmt.Sprint("-", p.Sticky)
		recall, stuck, slot := "recall"+timeout, "stuck"+timeout, suffixed("slot"+timeout, p.Inside)
		main.Rules = append(main.Rules, rule(kernel.Verdict{Kind: kernel.Jump, Chain: recall}), rule(choose, to(slot)))
		return append([]kernel.Chain{main}, w.sticky(p, [3]string{recall, stuck, slot})...)
	}
	return []kernel.Chain{main}
}

// sticky returns the chains that all plans with one affinity timeout share.
func (w words) sticky(p Plan, names [3]string) []kernel.Chain {
	priority := []kernel.Operand{kernel.FieldPriority}
	remember := rule(kernel.Update{Set: setAffinity, Key: w.client(), Value: priority, Timeout: time.Duration(p.Sticky) * time.Second})
	toMember := rule(w.dnat(setMembers))
	return []kernel.Chain{
		{Name: names[0], Rules: []kernel.Rule{
			rule(kernel.SetPriority{Fields: w.client(), Map: setAffinity}, kernel.Verdict{Kind: kernel.Goto, Chain: names[1]}),
		}},
		{Name: names[1], Rules: []kernel.Rule{
			remember, // the time starts anew
			toMember,
			rule(kernel.Delete{Set: setAffinity, Key: w.client(), Value: priority}), // the endpoint is gone: back to the plan
		}},
		{Name: names[2], Rules: []kernel.Rule{
			rule(kernel.SetPriority{Fields: w.key(kernel.FieldPriority), Map: setSlots}),
			remember, // in a rule of its own, which has no effect when there is no room
			toMember,
			rule(kernel.SetPriority{Fields: []kernel.Operand{firstSlot(p.Inside)}}, kernel.SetPriority{Fields: w.key(kernel.FieldPriority), Map: setSlots}),
			toMember,
			rule(kernel.Verdict{Kind: kernel.Drop}),
		}},
	}
}

// endpoint returns the chain that sends a packet to the endpoint in the slot whose number is in the priority. What is last drops packets that find
// nothing because they are on their way through the table while it changes, so that none leaves the node with a Service's address on it.
func (w words) endpoint(inside bool) kernel.Chain {
	return kernel.Chain{Name: suffixed(endpointChain, inside), Rules: []kernel.Rule{
		rule(w.dnat(setEndpoints)),
		rule(kernel.SetPriority{Fields: []kernel.Operand{firstSlot(inside)}}),
		rule(w.dnat(setEndpoints)),
		rule(kernel.Verdict{Kind: kernel.Drop}),
	}}
}

func suffixed(chain string, inside bool) string {
	if inside {
		return chain + "-inside"
	}
	return chain
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
	offset := slotNumber(0, p.Inside)
	hashed := func(fields ...kernel.Field) kernel.Operand {
		return kernel.Hash{Fields: fields, Modulus: p.Slots, Seed: seed, Offset: offset}
	}
	switch {
	case p.Slots == 1:
		return firstSlot(p.Inside)
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
func firstSlot(inside bool) kernel.Operand {
	return kernel.Numgen{Modulus: 1, Offset: slotNumber(0, inside)}
}

// dnat sends a packet to the endpoint that a map has for K and the priority.
func (w words) dnat(set string) kernel.DNAT {
	return kernel.DNAT{Fields: w.key(kernel.FieldPriority), Map: set, V6: w.v6()}
}
