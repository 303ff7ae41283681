package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/policy/gate"
)

// walk looks up in the kernel's maps what a connection's first packet finds there at one end, in the packet's order (package filter). What is between these maps, rules
// and ranges, is taken for what was written: Differences compares it as a whole.
func (i *Inspector) walk(ctx context.Context, direction policy.Direction, flow filter.Flow, way *api.KernelWay) error {
	own, other := flow.Src, flow.Dst
	chain, answer := &way.Egress, &way.EgressAnswer
	local := gate.FamilyOf(own).Egress
	if direction == policy.Ingress {
		own, other = other, own
		chain, answer = &way.Ingress, &way.IngressAnswer
		local = gate.FamilyOf(own).Ingress
	}
	var err error
	if *chain, err = i.chainOf(local, own); err != nil {
		return err
	}
	side, err := i.walkSide(ctx, *chain, own, other, flow)
	if flow.FromNode || flow.ToNode && direction == policy.Ingress {
		side = filter.Elsewhere
	}
	*answer = answers[side]
	return err
}

// walkSide is walk for an end that leads to a chain.
func (i *Inspector) walkSide(ctx context.Context, chain string, own, other netip.Addr, flow filter.Flow) (filter.Side, error) {
	if own == other {
		_, itself, err := i.look(gate.FamilyOf(own).Self, kernel.Datum{Addr: own}, kernel.Datum{Addr: own})
		if itself || err != nil {
			return filter.Elsewhere, err
		}
	}
	e := i.enforcer
	release, err := e.ask(ctx)
	if err != nil {
		return filter.Unknown, err
	}
	ours, table := e.isOurs(own), e.table
	release()
	switch {
	case chain == "" && ours:
		return filter.Unknown, nil
	case chain == "":
		return filter.Elsewhere, nil
	case chain == gate.ChainOpen:
		return filter.Open, nil
	}
	ports, err := i.portsOf(chain, other, table)
	if err != nil {
		return filter.Refused, err
	}
	open, err := i.opens(ports, flow, table)
	if open && err == nil {
		return filter.Open, nil
	}
	return filter.Refused, err
}

// portsOf returns the number of what a subject leaves open for an address.
func (i *Inspector) portsOf(chain string, other netip.Addr, table kernel.Table) (uint32, error) {
	_, hex, _ := strings.Cut(chain, "-")
	subject, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("chain %s of the kernel's table: want a name that ends in a subject's number", chain)
	}
	class, found, err := i.look(gate.FamilyOf(other).Pods, kernel.Datum{Addr: other})
	if err != nil {
		return 0, err
	}
	if !found {
		class, _ = inRange(table, gate.FamilyOf(other).Networks, kernel.Datum{Addr: other})
	}
	ports, found, err := i.look(gate.SetPairs, kernel.Datum{Number: uint32(subject)}, kernel.Datum{Number: class})
	if found || err != nil {
		return ports, err
	}
	for _, c := range table.Chains {
		if c.Name == chain {
			return byDefault(c.Rules), nil
		}
	}
	return gate.PortsNone, nil // a chain that was written by somebody else, or this moment
}

// byDefault is what a subject's chain leaves open for those that pairs says nothing of: its last rule.
func byDefault(rules []kernel.Rule) uint32 {
	set, ok := rules[len(rules)-1].Exprs[0].(kernel.SetPriority)
	switch {
	case !ok:
		return gate.PortsNone
	case len(set.Fields) == 0:
		return gate.PortsAll
	}
	if n, ok := set.Fields[0].(kernel.Numgen); ok {
		return n.Offset
	}
	return gate.PortsNone
}

// opens reports whether a set of ports, as the kernel has it, opens the flow's.
func (i *Inspector) opens(ports uint32, flow filter.Flow, table kernel.Table) (bool, error) {
	switch {
	case ports == gate.PortsAll:
		return true, nil
	case !policy.HasPorts(flow.Protocol):
		return ports&gate.FlagNoPorts != 0, nil
	}
	key := []kernel.Datum{{Number: ports}, {Number: uint32(flow.Protocol)}, {Number: uint32(flow.Port)}}
	_, listed, err := i.look(gate.SetPorts, key...)
	if !listed {
		_, listed = inRange(table, gate.SetRanges, key...)
	}
	return listed == (ports&gate.FlagAllBut == 0), err
}

// inRange is look for a set of ranges, as it was written: the kernel answers with neighbours of a key.
func inRange(table kernel.Table, set string, key ...kernel.Datum) (value uint32, found bool) {
	at := slices.IndexFunc(table.Sets, func(s kernel.Set) bool { return s.Name == set })
	if at < 0 {
		return 0, false
	}
	for _, e := range table.Sets[at].Elements {
		if !within(e, key) {
			continue
		}
		if len(e.Value) == 1 {
			value = e.Value[0].Number
		}
		return value, true
	}
	return 0, false
}

// within reports whether an element is, or has in its range, a key.
func within(e kernel.Element, key []kernel.Datum) bool {
	for part, k := range key {
		first := e.Key[part]
		last := first
		if e.KeyEnd != nil {
			last = e.KeyEnd[part]
		}
		if first.Prefix.IsValid() {
			if !first.Prefix.Contains(k.Addr) {
				return false
			}
			continue
		}
		if k.Addr.Compare(first.Addr) < 0 || k.Addr.Compare(last.Addr) > 0 || k.Number < first.Number || k.Number > last.Number {
			return false
		}
	}
	return true
}

// look looks a key up in one of the kernel's sets and maps, and returns the number that it leads to.
func (i *Inspector) look(set string, key ...kernel.Datum) (value uint32, found bool, err error) {
	elements, err := i.kernel.FindElements(gate.Family, gate.TableName, set, []kernel.Element{{Key: key}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(elements) == 0 {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look into set %s: %w", set, err)
	}
	if v := elements[0].Value; len(v) == 1 {
		return v[0].Number, true, nil
	}
	return 0, true, nil
}
