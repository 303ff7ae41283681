package filter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
)

// tracer is a table as the kernel has it: it takes changes with the kernel's strictness, and lets packets walk through the rules.
type tracer struct {
	t        testing.TB
	table    kernel.Table
	chains   map[string]*kernel.Chain
	sets     map[string]*kernel.Set
	bulk     map[string]map[string]string
	local    map[string]map[netip.Addr]string // chains of the verdict maps
	writes   int                              // elements of Bulk sets
	tables   int                              // that differed, while counting
	counting bool
}

func newTracer(t testing.TB) *tracer {
	w := &tracer{t: t, bulk: map[string]map[string]string{}}
	for _, name := range BulkSets() {
		w.bulk[name] = map[string]string{}
	}
	return w
}

// sync is SyncTables.
func (w *tracer) sync(table kernel.Table) {
	w.t.Helper()
	if w.counting && text(table) != text(w.table) {
		w.tables++
	}
	w.table, w.chains, w.sets, w.local = table, map[string]*kernel.Chain{}, map[string]*kernel.Set{}, map[string]map[netip.Addr]string{}
	for i := range table.Chains {
		c := &table.Chains[i]
		if w.chains[c.Name] != nil {
			w.t.Fatalf("two chains %s", c.Name)
		}
		w.chains[c.Name] = c
	}
	for i := range table.Sets {
		s := &table.Sets[i]
		w.sets[s.Name] = s
		if len(s.Value) == 1 && s.Value[0] == kernel.TypeVerdict {
			w.local[s.Name] = map[netip.Addr]string{}
			for _, e := range s.Elements {
				if w.chains[e.Value[0].Verdict.Chain] == nil {
					w.t.Fatalf("map %s leads to chain %s, which is not there", s.Name, e.Value[0].Verdict.Chain)
				}
				w.local[s.Name][e.Key[0].Addr] = e.Value[0].Verdict.Chain
			}
		}
	}
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			for _, e := range r.Exprs {
				if v, ok := e.(kernel.Verdict); ok && v.Chain != "" && w.chains[v.Chain] == nil {
					w.t.Fatalf("chain %s leads to %s, which is not there", c.Name, v.Chain)
				}
			}
		}
	}
}

// change is ChangeElements.
func (w *tracer) change(changes ...kernel.SetChange) {
	w.t.Helper()
	for _, c := range changes {
		set := w.bulk[c.Set]
		if n := len(c.Remove) + len(c.Add); n > MaxChange || n == 0 {
			w.t.Errorf("a change of %d elements", n)
		}
		for _, k := range c.Remove {
			if _, ok := set[k]; !ok {
				w.t.Fatalf("set %s: remove %x: no such element", c.Set, k)
			}
			delete(set, k)
			w.writes++
		}
		for _, e := range c.Add {
			if v, ok := set[e.Key]; ok {
				w.t.Fatalf("set %s: add %x: it is there with value %x", c.Set, e.Key, v)
			}
			set[e.Key] = e.Value
			w.writes++
		}
	}
}

// apply writes a Plan, and calls between after each step.
func (w *tracer) apply(p Plan, between func()) {
	w.t.Helper()
	steps := func(changes []kernel.SetChange) {
		for _, c := range changes {
			w.change(c)
			between()
		}
	}
	steps(p.Before)
	if p.Table != nil {
		w.sync(*p.Table)
		between()
	}
	steps(p.After)
}

// list is what Entries tells.
func (w *tracer) list() *Listing {
	l := &Listing{}
	for name, set := range w.bulk {
		for k, v := range set {
			l.Add(name, kernel.Entry{Key: k, Value: v})
		}
	}
	for _, name := range NetworkSets() {
		if s := w.sets[name]; s != nil {
			l.AddNetworks(s.Elements)
		}
	}
	return l
}

// packet is a packet of a connection.
type packet struct {
	src, dst    netip.Addr
	protocol    uint8
	port        uint16
	icmpType    uint32
	mark, state uint32
	iif         string
	priority    uint32

	reason string // the chain that dropped it
}

func packetOf(flow policy.Flow) packet {
	return packet{src: flow.Src, dst: flow.Dst, protocol: uint8(flow.Protocol), port: flow.Port, state: 8, priority: 6}
}

// passes lets a packet walk through a base chain, or through another one that is called.
func (w *tracer) passes(chain string, p packet) (bool, string) {
	w.t.Helper()
	verdict := w.walk(chain, &p, 0)
	if verdict != kernel.Drop && p.priority != 0 && p.priority != 6 {
		w.t.Errorf("%v -> %v leaves with priority %x", p.src, p.dst, p.priority)
	}
	return verdict != kernel.Drop, p.reason
}

// walk returns accept, drop, or return.
func (w *tracer) walk(name string, p *packet, depth int) kernel.VerdictKind {
	c := w.chains[name]
	if c == nil || depth > 16 {
		w.t.Fatalf("chain %s at depth %d", name, depth)
	}
rules:
	for _, r := range c.Rules {
		for _, e := range r.Exprs {
			matches, v := w.eval(e, p)
			if !matches {
				continue rules
			}
			if v == nil {
				continue
			}
			switch v.Kind {
			case kernel.Goto:
				return w.walk(v.Chain, p, depth+1)
			case kernel.Jump:
				if end := w.walk(v.Chain, p, depth+1); end != kernel.Return {
					return end
				}
				continue rules
			case kernel.Drop:
				p.reason = name
			}
			return v.Kind
		}
	}
	return kernel.Return
}

func (w *tracer) eval(e kernel.Expr, p *packet) (matches bool, v *kernel.Verdict) {
	switch e := e.(type) {
	case kernel.Verdict:
		return true, &e
	case kernel.Counter, kernel.Limit, kernel.Log:
		return true, nil
	case kernel.Compare:
		if e.Field == kernel.FieldIIFName {
			return (p.iif == e.Value.Name) != e.Not, nil
		}
		have, ok := w.number(e.Field, p)
		if e.Mask != 0 {
			have &= e.Mask
		}
		return ok && (have == e.Value.Number) != e.Not, nil
	case kernel.Lookup:
		key, ok := w.key(e.Fields, p)
		if !ok {
			return false, nil
		}
		_, there := w.find(e.Set, key)
		return there != e.Not, nil
	case kernel.SetPriority:
		if e.Map == "" {
			key, _ := w.key(e.Fields, p)
			p.priority, _ = kernel.CutNumber(string(key) + "\x00\x00\x00\x00")
			return true, nil
		}
		key, ok := w.key(e.Fields, p)
		if !ok {
			return false, nil
		}
		value, there := w.find(e.Map, key)
		if there {
			p.priority, _ = kernel.CutNumber(value)
		}
		return there, nil
	case kernel.VerdictMap:
		addr, ok := w.addr(e.Fields[0].(kernel.Field), p)
		chain, there := w.local[e.Map][addr]
		return ok && there, &kernel.Verdict{Kind: kernel.Goto, Chain: chain}
	}
	w.t.Fatalf("no meaning for %T", e)
	return false, nil
}

// find looks a key up in a Bulk set, or in the elements of another.
func (w *tracer) find(name string, key []byte) (value string, there bool) {
	s := w.sets[name]
	if s == nil {
		w.t.Fatalf("no set %s", name)
	}
	if s.Bulk {
		value, there = w.bulk[name][string(key)]
		return value, there
	}
	for _, e := range s.Elements {
		first, last := encode(s.Key, e)
		if within := inRange(s.Key, string(key), first, last); within {
			if len(e.Value) > 0 {
				value = string(kernel.AppendNumber(nil, e.Value[0].Number))
			}
			return value, true
		}
	}
	return "", false
}

// encode returns the first and the last key of an element.
func encode(types []kernel.Type, e kernel.Element) (first, last string) {
	end := e.KeyEnd
	if end == nil {
		end = e.Key
	}
	one := func(t kernel.Type, d kernel.Datum) string {
		switch t {
		case kernel.TypeInetProto:
			return string(kernel.AppendProto(nil, uint8(d.Number)))
		case kernel.TypeInetService:
			return string(kernel.AppendPort(nil, uint16(d.Number)))
		case kernel.TypeIPv4Addr, kernel.TypeIPv6Addr:
			return string(kernel.AppendAddr(nil, d.Addr))
		}
		return string(kernel.AppendNumber(nil, d.Number))
	}
	if p := e.Key[0].Prefix; p.IsValid() {
		return string(kernel.AppendAddr(nil, p.Addr())), string(kernel.AppendAddr(nil, lastOf(p)))
	}
	for i, t := range types {
		first, last = first+one(t, e.Key[i]), last+one(t, end[i])
	}
	return first, last
}

// inRange compares each part of a concatenation, as sets of concatenated ranges do.
func inRange(types []kernel.Type, key, first, last string) bool {
	for _, t := range types {
		size := 4
		if t == kernel.TypeIPv6Addr {
			size = 16
		}
		if len(key) < size || len(first) < size || key[:size] < first[:size] || key[:size] > last[:size] {
			return false
		}
		key, first, last = key[size:], first[size:], last[size:]
	}
	return key == "" && first == ""
}

func (w *tracer) addr(f kernel.Field, p *packet) (netip.Addr, bool) {
	a := p.src
	if f == kernel.FieldIPDaddr || f == kernel.FieldIP6Daddr {
		a = p.dst
	}
	return a, a.Is4() == (f == kernel.FieldIPSaddr || f == kernel.FieldIPDaddr)
}

func (w *tracer) number(f kernel.Field, p *packet) (uint32, bool) {
	switch f {
	case kernel.FieldPriority:
		return p.priority, true
	case kernel.FieldL4Proto:
		return uint32(p.protocol), true
	case kernel.FieldCTMark:
		return p.mark, true
	case kernel.FieldCTState:
		return p.state, true
	case kernel.FieldICMPv6Type:
		return p.icmpType, p.protocol == 58
	}
	w.t.Fatalf("no meaning for field %d", f)
	return 0, false
}

// key is what a concatenation of operands is for a packet; ok is false for one that has not got all parts.
func (w *tracer) key(operands []kernel.Operand, p *packet) (key []byte, ok bool) {
	for _, o := range operands {
		switch o := o.(type) {
		case kernel.Field:
			switch o {
			case kernel.FieldDport:
				key = kernel.AppendPort(key, p.port)
			case kernel.FieldL4Proto:
				key = kernel.AppendProto(key, p.protocol)
			case kernel.FieldPriority:
				key = kernel.AppendNumber(key, p.priority)
			default:
				a, ok := w.addr(o, p)
				if !ok {
					return nil, false
				}
				key = kernel.AppendAddr(key, a)
			}
		case kernel.Numgen:
			key = kernel.AppendNumber(key, o.Offset)
		}
	}
	return key, true
}

// text prints a table, in a form that people can compare.
func text(t kernel.Table) string {
	var out strings.Builder
	for _, s := range t.Sets {
		fmt.Fprintf(&out, "set %s %v %v %q\n", s.Name, s.Key, s.Value, s.Comment)
		for _, e := range s.Elements {
			fmt.Fprintf(&out, "    %s\n", elementText(e))
		}
	}
	for _, c := range t.Chains {
		fmt.Fprintf(&out, "chain %s %q\n", c.Name, c.Comment)
		for _, r := range c.Rules {
			out.WriteString("   ")
			for _, e := range r.Exprs {
				fmt.Fprintf(&out, " %s%+v", fmt.Sprintf("%T", e)[len("kernel."):], e)
			}
			out.WriteString("\n")
		}
	}
	return out.String()
}

func elementText(e kernel.Element) string {
	one := func(data []kernel.Datum) (out string) {
		for _, d := range data {
			switch {
			case d.Prefix.IsValid():
				out += d.Prefix.String() + " "
			case d.Addr.IsValid():
				out += d.Addr.String() + " "
			case d.Verdict != nil:
				out += string(d.Verdict.Kind) + " " + d.Verdict.Chain + " "
			default:
				out += fmt.Sprint(d.Number, " ")
			}
		}
		return out
	}
	return fmt.Sprintf("%s- %s: %s%s", one(e.Key), one(e.KeyEnd), one(e.Value), e.Comment)
}
