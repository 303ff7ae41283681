package dnat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

// world is a table as the kernel has it: it takes changes with the kernel's strictness, and lets packets walk through the rules.
type world struct {
	t        *testing.T
	table    kernel.Table
	sets     map[string]map[string]string // Bulk sets and the map of affinity
	counters map[ruleID]uint32
	writes   int // elements
	full     bool
}

func newWorld(t *testing.T, c Config) *world {
	w := &world{t: t, sets: map[string]map[string]string{}, counters: map[ruleID]uint32{}}
	w.sync(New(c).Skeleton())
	return w
}

// sync is SyncTables. Elements of plans may not lead to a chain that is not there, nor may rules.
func (w *world) sync(table kernel.Table) {
	w.t.Helper()
	for _, s := range table.Sets {
		if w.sets[s.Name] == nil {
			w.sets[s.Name] = map[string]string{}
		}
	}
	w.table = table
	if err := w.validate(); err != nil {
		w.t.Fatal(err)
	}
}

// validate is what nf_tables checks of chains: that they are there, and that no way leads back to where it came from.
func (w *world) validate() error {
	var walk func(name string, path []string) error
	walk = func(name string, path []string) error {
		if slices.Contains(path, name) || len(path) > 16 {
			return fmt.Errorf("loop: %v %s", path, name)
		}
		c := w.chain(name)
		if c == nil {
			return fmt.Errorf("chain %s is not there, to be reached by %v", name, path)
		}
		path = append(path, name)
		for _, r := range c.Rules {
			for _, e := range r.Exprs {
				switch e := e.(type) {
				case kernel.Verdict:
					if e.Chain != "" {
						if err := walk(e.Chain, path); err != nil {
							return err
						}
					}
				case kernel.VerdictMap:
					for _, x := range w.set(e.Map).Elements {
						if err := walk(x.Value[0].Verdict.Chain, path); err != nil {
							return err
						}
					}
				}
			}
		}
		return nil
	}
	for _, c := range w.table.Chains {
		if c.Hook != nil {
			if err := walk(c.Name, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// change is ChangeElements.
func (w *world) change(changes []kernel.SetChange) {
	w.t.Helper()
	for _, c := range changes {
		set := w.sets[c.Set]
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

// apply writes an update in the prescribed order.
func (w *world) apply(t *Table, u Update) {
	w.t.Helper()
	if u.Skeleton {
		w.sync(t.Skeleton())
	}
	w.change(u.Elements)
}

// list is what Entries tells.
func (w *world) list() *Listing {
	l := &Listing{}
	for _, set := range BulkSets() {
		for k, v := range w.sets[set] {
			l.Add(set, kernel.Entry{Key: k, Value: v})
		}
	}
	return l
}

// planElements is what the maps of plans hold.
func (w *world) planElements() []kernel.Element {
	var out []kernel.Element
	for _, name := range PlanSets() {
		out = append(out, w.set(name).Elements...)
	}
	return out
}

func (w *world) chain(name string) *kernel.Chain {
	i := slices.IndexFunc(w.table.Chains, func(c kernel.Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &w.table.Chains[i]
}

func (w *world) set(name string) *kernel.Set {
	i := slices.IndexFunc(w.table.Sets, func(s kernel.Set) bool { return s.Name == name })
	if i < 0 {
		w.t.Fatalf("no set %s", name)
	}
	return &w.table.Sets[i]
}

// ruleID names a rule.
type ruleID struct {
	chain string
	rule  int
}

// packet is the first packet of a connection.
type packet struct {
	src, dst       netip.AddrPort
	proto          uint8
	fromNode       bool                    // sent by the node itself
	random         func(mod uint32) uint32 // nil: always 0
	mark, priority uint32
	translated     bool // for postrouting: ct status dnat

	at ruleID // the rule at hand
}

// result is what becomes of a packet.
type result struct {
	verdict    string // pass, drop, reject, dnat, masquerade
	to         netip.AddrPort
	masquerade bool // its source becomes the node's address
}

// trace lets a packet walk through prerouting or output, and through postrouting.
func (w *world) trace(p packet) result {
	w.t.Helper()
	hook := "prerouting"
	if p.fromNode {
		hook = "output"
	}
	r := result{verdict: "pass"}
	w.walk(hook, &p, &r)
	switch r.verdict {
	case "dnat":
		p.dst, p.translated = r.to, true
	case "pass":
	default:
		return r
	}
	if !p.fromNode {
		p.priority = 0 // ip_forward
	}
	after := result{verdict: "pass"}
	w.walk("postrouting", &p, &after)
	if p.mark != 0 || p.priority != 0 {
		w.t.Errorf("%v -> %v leaves with mark %x and priority %x", p.src, p.dst, p.mark, p.priority)
	}
	r.masquerade = after.verdict == "masquerade"
	return r
}

var errNoMatch = errors.New("does not match")

// walk evaluates a chain and reports whether a verdict ended it.
func (w *world) walk(name string, p *packet, r *result) bool {
	c := w.chain(name)
rules:
	for i, rule := range c.Rules {
		p.at = ruleID{name, i}
		for _, e := range rule.Exprs {
			next, stop, err := w.eval(e, p, r)
			switch {
			case errors.Is(err, errNoMatch):
				continue rules
			case stop:
				return true
			case next != nil && next.Kind == kernel.Goto:
				return w.walk(next.Chain, p, r)
			case next != nil && next.Kind == kernel.Jump:
				if w.walk(next.Chain, p, r) {
					return true
				}
				continue rules
			}
		}
	}
	return false
}

func (w *world) eval(e kernel.Expr, p *packet, r *result) (next *kernel.Verdict, stop bool, err error) {
	match := func(ok bool) error { return map[bool]error{false: errNoMatch}[ok] }
	switch e := e.(type) {
	case kernel.Verdict:
		if e.Kind == kernel.Drop {
			r.verdict = "drop"
			return nil, true, nil
		}
		return &e, false, nil
	case kernel.Reject:
		r.verdict = "reject"
		return nil, true, nil
	case kernel.Masquerade:
		r.verdict = "masquerade"
		return nil, true, nil
	case kernel.Compare:
		v := w.number(e.Field, p)
		if e.Mask != 0 {
			v &= e.Mask
		}
		return nil, false, match((v == e.Value.Number) != e.Not)
	case kernel.Lookup:
		return nil, false, match(w.contains(e, p) != e.Not)
	case kernel.SetMark:
		p.mark = p.mark&^e.Mask | e.Value
	case kernel.SetPriority:
		if e.Map == "" {
			p.priority, _ = kernel.CutNumber(string(append(w.key(e.Fields, p), 0, 0, 0, 0)))
		} else {
			v, ok := w.sets[e.Map][string(w.key(e.Fields, p))]
			if !ok {
				return nil, false, errNoMatch
			}
			p.priority, _ = kernel.CutNumber(v)
		}
	case kernel.VerdictMap:
		for _, x := range w.set(e.Map).Elements {
			if x.Key[0].Number == p.priority {
				return x.Value[0].Verdict, false, nil
			}
		}
		return nil, false, errNoMatch
	case kernel.DNAT:
		v, ok := w.sets[e.Map][string(w.key(e.Fields, p))]
		if !ok {
			return nil, false, errNoMatch
		}
		r.verdict, r.to = "dnat", target(v)
		return nil, true, nil
	case kernel.Update:
		key := string(w.key(e.Key, p))
		if _, ok := w.sets[e.Set][key]; !ok {
			if w.full {
				return nil, false, errNoMatch
			}
			w.sets[e.Set][key] = string(w.key(e.Value, p))
		}
	case kernel.Delete:
		delete(w.sets[e.Set], string(w.key(e.Key, p)))
	default:
		w.t.Fatalf("no meaning for %T", e)
	}
	return nil, false, nil
}

func target(v string) netip.AddrPort {
	a, rest := kernel.CutAddr(v, len(v) > 8)
	port, _ := kernel.CutPort(rest)
	return netip.AddrPortFrom(a, port)
}

// contains looks into a Bulk set or into the elements of the skeleton.
func (w *world) contains(e kernel.Lookup, p *packet) bool {
	s := w.set(e.Set)
	if s.Bulk {
		_, ok := w.sets[e.Set][string(w.key(e.Fields, p))]
		return ok
	}
	return slices.ContainsFunc(s.Elements, func(x kernel.Element) bool {
		for i, d := range x.Key {
			f := e.Fields[i].(kernel.Field)
			switch a := w.addr(f, p); {
			case d.Prefix.IsValid() && !d.Prefix.Contains(a),
				d.Addr.IsValid() && d.Addr != a,
				!d.Prefix.IsValid() && !d.Addr.IsValid() && d.Number != w.number(f, p):
				return false
			}
		}
		return true
	})
}

func (w *world) addr(f kernel.Field, p *packet) netip.Addr {
	switch f {
	case kernel.FieldIPSaddr, kernel.FieldIP6Saddr:
		return p.src.Addr()
	case kernel.FieldIPDaddr, kernel.FieldIP6Daddr:
		return p.dst.Addr()
	}
	return netip.Addr{}
}

func (w *world) number(f kernel.Field, p *packet) uint32 {
	switch f {
	case kernel.FieldMark:
		return p.mark
	case kernel.FieldPriority:
		return p.priority
	case kernel.FieldL4Proto:
		return uint32(p.proto)
	case kernel.FieldDport:
		return uint32(p.dst.Port())
	case kernel.FieldCTStatus:
		if p.translated {
			return ctStatusDNAT
		}
		return 0
	case kernel.FieldFIBSaddrType:
		if p.fromNode {
			return addrTypeLocal
		}
		return 1
	}
	w.t.Fatalf("no meaning for field %d", f)
	return 0
}

// key is what a concatenation of operands is for a packet.
func (w *world) key(operands []kernel.Operand, p *packet) []byte {
	var b []byte
	for _, o := range operands {
		switch o := o.(type) {
		case kernel.Field:
			switch o {
			case kernel.FieldL4Proto:
				b = kernel.AppendProto(b, p.proto)
			case kernel.FieldDport:
				b = kernel.AppendPort(b, p.dst.Port())
			case kernel.FieldSport:
				b = kernel.AppendPort(b, p.src.Port())
			case kernel.FieldPriority:
				b = kernel.AppendNumber(b, p.priority)
			default:
				b = kernel.AppendAddr(b, w.addr(o, p))
			}
		case kernel.Numgen:
			n := uint32(0)
			if !o.Random {
				n = w.counters[p.at] % o.Modulus
				w.counters[p.at]++
			} else if p.random != nil {
				n = p.random(o.Modulus)
			}
			b = kernel.AppendNumber(b, n+o.Offset)
		case kernel.Hash:
			var fields []kernel.Operand
			for _, f := range o.Fields {
				fields = append(fields, f)
			}
			b = kernel.AppendNumber(b, uint32(kernel.StableHash(uint64(o.Seed), string(w.key(fields, p)))%uint64(o.Modulus))+o.Offset)
		}
	}
	return b
}
