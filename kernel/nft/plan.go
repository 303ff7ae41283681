package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

// step is one message of a transaction, with words for the error when the kernel refuses it.
type step struct {
	message nfnl.Message
	what    string
}

// maxList is how many bytes of elements go into one message: an attribute's length has 16 bits.
const maxList = 60 << 10

// plan returns the transaction that turns actual into desired; none when they are equal. What is equal is left alone: chains
// stay hooked, sets keep their elements, foreign ones above all. Within a transaction the kernel works in this order, so that
// nothing is removed while something refers to it and nothing is referred to before it is there.
func plan(id tableID, actual, desired *image) []step {
	p := planner{id: id, actual: actual, desired: desired}
	p.rewriteAll = slices.ContainsFunc(sorted(actual.sets), p.dropsSet) ||
		slices.ContainsFunc(sorted(actual.chains), p.dropsChain)
	if !actual.exists || actual.flags != desired.flags {
		p.addTable(desired.flags)
	}
	p.removeRules()
	p.removeElements()
	p.removeSets()
	p.removeChains()
	p.addChains()
	p.addSets()
	p.addElements()
	p.addRules()
	return p.steps
}

// prepare returns a transaction to be committed before the one of plan, and enters into actual what it makes: what is new in a table in use, and what nothing
// leads to before plan's. For in one transaction, what leads somewhere would come into force a moment before what it leads to is complete:
//
//   - Elements of an interval set become visible to packets in the step of nf_tables_commit that follows the switch of generations
//     (nft_set_ops.commit), after the rules and elements of that transaction. So new interval sets are filled before, and so are those that
//     are Ahead. An interval set that changes its shape and keeps its name cannot be had that way.
//   - A packet goes by the rules of the generation in which its way through a base chain began (nft_do_chain), but by the elements of the present one. A
//     verdict map may so send it to a chain that has no rules for it yet, and lets it go on. So new chains that a verdict map leads to are filled before.
func prepare(id tableID, actual, desired *image) []step {
	if len(actual.chains) == 0 {
		return nil
	}
	early := planner{id: id, actual: &image{}, desired: &image{exists: true, sets: map[string]*set{}, chains: map[string]*chain{}}}
	for name, s := range desired.sets {
		if actual.sets[name] == nil && s.flags&unix.NFT_SET_INTERVAL != 0 && s.dataType != unix.NFT_DATA_VERDICT {
			early.desired.sets[name], actual.sets[name] = s, s
		}
	}
	whole := planner{id: id, actual: actual, desired: desired}
	if whole.leads() {
		for name, c := range desired.chains {
			if actual.chains[name] == nil && !c.base {
				early.desired.chains[name], actual.chains[name] = c, c
			}
		}
	}
	early.addChains()
	early.addSets()
	early.addElements()
	early.aheadOf(actual, desired)
	early.addRules()
	return early.steps
}

// leads reports whether the elements of a verdict map change, and all sets that rules may refer to are there.
func (p *planner) leads() bool {
	change := false
	for name, s := range p.desired.sets {
		if p.makesSet(name) {
			return false
		}
		change = change || s.dataType == unix.NFT_DATA_VERDICT && !s.foreign && len(missing(s.elements, p.actual.sets[name].elements)) > 0
	}
	return change
}

// aheadOf adds the new elements of sets that are Ahead and there.
func (p *planner) aheadOf(actual, desired *image) {
	for _, name := range sorted(desired.sets) {
		have, want := actual.sets[name], desired.sets[name]
		if !want.ahead || have == want || have == nil || !have.sameShape(want.setSpec) {
			continue
		}
		more := missing(want.elements, have.elements)
		if len(more) == 0 {
			continue
		}
		p.elements(unix.NFT_MSG_NEWSETELEM, name, want.setSpec, more)
		elements := maps.Clone(have.elements)
		maps.Copy(elements, more)
		actual.sets[name] = &set{setSpec: have.setSpec, elements: elements}
	}
}

type planner struct {
	id              tableID
	actual, desired *image
	rewriteAll      bool // a set or chain goes that a rule of any chain may refer to, if only to its successor of the same name
	steps           []step
}

func (p *planner) add(m nfnl.Message, format string, args ...any) {
	p.steps = append(p.steps, step{m, fmt.Sprintf(format, args...)})
}

func (p *planner) addTable(flags uint32) {
	m := message(unix.NFT_MSG_NEWTABLE, p.id)
	m.Flags = unix.NLM_F_CREATE
	m.Attrs.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	p.add(m, "add table")
}

// rewrites reports whether the rules of the chain have to be written anew.
func (p *planner) rewrites(name string) bool {
	have, want := p.actual.chains[name], p.desired.chains[name]
	return p.rewriteAll || have == nil || want == nil || !slices.EqualFunc(have.rules, want.rules, rule.equal)
}

// dropsChain reports whether the chain, which is there, has to go, for good or to be made again at another hook.
func (p *planner) dropsChain(name string) bool {
	want := p.desired.chains[name]
	return want == nil || !p.actual.chains[name].sameHook(want.chainSpec)
}

// dropsSet reports whether the set, which is there, has to go, for good or to be made again in another shape.
func (p *planner) dropsSet(name string) bool {
	want := p.desired.sets[name]
	return want == nil || !p.actual.sets[name].sameShape(want.setSpec)
}

// makesSet reports whether the desired set has to be made.
func (p *planner) makesSet(name string) bool { return p.actual.sets[name] == nil || p.dropsSet(name) }

func (p *planner) removeRules() {
	for _, name := range sorted(p.actual.chains) {
		if len(p.actual.chains[name].rules) == 0 || !p.rewrites(name) {
			continue
		}
		m := message(unix.NFT_MSG_DELRULE, p.id)
		m.Attrs.String(unix.NFTA_RULE_CHAIN, name)
		p.add(m, "remove rules of chain %s", name)
	}
}

func (p *planner) addRules() {
	for _, name := range sorted(p.desired.chains) {
		if !p.rewrites(name) {
			continue
		}
		for i, r := range p.desired.chains[name].rules {
			m := message(unix.NFT_MSG_NEWRULE, p.id)
			m.Flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
			m.Attrs.String(unix.NFTA_RULE_CHAIN, name)
			m.Attrs.Bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, r.raw)
			if r.userData != "" {
				m.Attrs.Bytes(unix.NFTA_RULE_USERDATA, []byte(r.userData))
			}
			p.add(m, "add rule %d to chain %s", i+1, name)
		}
	}
}

func (p *planner) removeChains() {
	for _, name := range sorted(p.actual.chains) {
		if !p.dropsChain(name) {
			continue
		}
		m := message(unix.NFT_MSG_DELCHAIN, p.id)
		m.Attrs.String(unix.NFTA_CHAIN_NAME, name)
		p.add(m, "remove chain %s", name)
	}
}

// addChains adds chains, and changes the policy of those whose hook is as it should be: such a chain filters packets all the
// time, a new one with policy drop would drop them until the transaction's end. A comment alone cannot be changed
// (nf_tables_updchain), and is not worth unhooking a chain for.
func (p *planner) addChains() {
	for _, name := range sorted(p.desired.chains) {
		want := p.desired.chains[name].chainSpec
		have := p.actual.chains[name]
		kept := have != nil && !p.dropsChain(name)
		if kept && have.policy == want.policy {
			continue
		}
		m := message(unix.NFT_MSG_NEWCHAIN, p.id)
		m.Flags = unix.NLM_F_CREATE
		m.Attrs.String(unix.NFTA_CHAIN_NAME, name)
		if want.base {
			m.Attrs.Nest(unix.NFTA_CHAIN_HOOK, func(a *nfnl.Attrs) {
				a.Uint32(unix.NFTA_HOOK_HOOKNUM, want.hook)
				a.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(want.priority))
			})
			m.Attrs.String(unix.NFTA_CHAIN_TYPE, want.kind)
			m.Attrs.Uint32(unix.NFTA_CHAIN_POLICY, want.policy)
		}
		if want.userData != "" && !kept {
			m.Attrs.Bytes(nftaChainUserData, []byte(want.userData))
		}
		p.add(m, "add chain %s", name)
	}
}

func (p *planner) removeSets() {
	for _, name := range sorted(p.actual.sets) {
		if !p.dropsSet(name) {
			continue
		}
		m := message(unix.NFT_MSG_DELSET, p.id)
		m.Attrs.String(unix.NFTA_SET_NAME, name)
		p.add(m, "remove set %s", name)
	}
}

func (p *planner) addSets() {
	for i, name := range sorted(p.desired.sets) {
		if !p.makesSet(name) {
			continue
		}
		m := message(unix.NFT_MSG_NEWSET, p.id)
		m.Flags = unix.NLM_F_CREATE
		m.Attrs.String(unix.NFTA_SET_NAME, name)
		p.desired.sets[name].encode(&m.Attrs)
		m.Attrs.Uint32(unix.NFTA_SET_ID, uint32(i+1))
		p.add(m, "add set %s", name)
	}
}

// encode appends the attributes of NEWSET.
func (s setSpec) encode(a *nfnl.Attrs) {
	a.Uint32(unix.NFTA_SET_FLAGS, s.flags)
	a.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType)
	a.Uint32(unix.NFTA_SET_KEY_LEN, s.keyLen)
	if s.flags&unix.NFT_SET_MAP != 0 {
		a.Uint32(unix.NFTA_SET_DATA_TYPE, s.dataType)
		a.Uint32(unix.NFTA_SET_DATA_LEN, s.dataLen)
	}
	if s.size != 0 || s.fields != "" {
		a.Nest(unix.NFTA_SET_DESC, func(a *nfnl.Attrs) {
			if s.size != 0 {
				a.Uint32(unix.NFTA_SET_DESC_SIZE, s.size)
			}
			if s.fields == "" {
				return
			}
			a.Nest(nftaSetDescConcat, func(a *nfnl.Attrs) {
				for _, size := range []byte(s.fields) {
					a.Nest(unix.NFTA_LIST_ELEM, func(a *nfnl.Attrs) { a.Uint32(nftaSetFieldLen, uint32(size)) })
				}
			})
		})
	}
	a.Bytes(unix.NFTA_SET_USERDATA, []byte(s.userData))
	if s.expr != "" {
		a.Nest(nftaSetExpr, func(a *nfnl.Attrs) { a.String(unix.NFTA_EXPR_NAME, s.expr) })
	}
}

func (p *planner) removeElements() {
	for _, name := range sorted(p.actual.sets) {
		if p.dropsSet(name) || p.desired.sets[name].foreign {
			continue
		}
		want := p.desired.sets[name]
		p.elements(unix.NFT_MSG_DELSETELEM, name, want.setSpec, missing(p.actual.sets[name].elements, want.elements))
	}
}

// addElements fills sets. A foreign set gets its elements when it is made, and is its writers' from then on.
func (p *planner) addElements() {
	for _, name := range sorted(p.desired.sets) {
		want := p.desired.sets[name]
		var have map[elementKey]elementValue
		if !p.makesSet(name) {
			if want.foreign {
				continue
			}
			have = p.actual.sets[name].elements
		}
		p.elements(unix.NFT_MSG_NEWSETELEM, name, want.setSpec, missing(want.elements, have))
	}
}

// missing returns the elements of a that b does not hold with the same value.
func missing(a, b map[elementKey]elementValue) map[elementKey]elementValue {
	out := make(map[elementKey]elementValue)
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			out[key] = value
		}
	}
	return out
}

// elements appends as many messages of the given type as the elements need.
func (p *planner) elements(typ uint16, name string, spec setSpec, elements map[elementKey]elementValue) {
	verb := "add"
	if typ == unix.NFT_MSG_DELSETELEM {
		verb = "remove"
	}
	keys := slices.SortedFunc(maps.Keys(elements), elementKey.compare)
	var list nfnl.Attrs
	for i, key := range keys {
		appendElement(&list, spec, key, elements[key], typ == unix.NFT_MSG_DELSETELEM)
		if len(list) < maxList && i < len(keys)-1 {
			continue
		}
		m := message(typ, p.id)
		if typ == unix.NFT_MSG_NEWSETELEM {
			m.Flags = unix.NLM_F_CREATE
		}
		m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, name)
		m.Attrs.Bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
		p.add(m, "%s elements of set %s", verb, name)
		list = list[:0]
	}
}

func (k elementKey) compare(o elementKey) int {
	switch {
	case k.from < o.from:
		return -1
	case k.from > o.from:
		return 1
	case k.to < o.to:
		return -1
	case k.to > o.to:
		return 1
	}
	return 0
}

// appendElement appends one element to the list; two, where a range starts and ends, in an interval set without concatenation.
func appendElement(list *nfnl.Attrs, spec setSpec, key elementKey, value elementValue, keyOnly bool) {
	concat := spec.flags&setConcat != 0
	list.Nest(unix.NFTA_LIST_ELEM, func(a *nfnl.Attrs) {
		if key.catchAll() {
			a.Uint32(unix.NFTA_SET_ELEM_FLAGS, nftSetElemCatchAll)
		} else {
			appendData(a, unix.NFTA_SET_ELEM_KEY, key.from)
		}
		if concat && !key.catchAll() {
			appendData(a, nftaSetElemKeyEnd, key.to)
		}
		switch {
		case keyOnly || spec.flags&unix.NFT_SET_MAP == 0:
		case spec.dataType == unix.NFT_DATA_VERDICT:
			a.Nest(unix.NFTA_SET_ELEM_DATA, func(a *nfnl.Attrs) { appendVerdict(a, value) })
		default:
			appendData(a, unix.NFTA_SET_ELEM_DATA, value.data)
		}
		if value.comment != "" && !keyOnly {
			a.Bytes(unix.NFTA_SET_ELEM_USERDATA, []byte(value.comment))
		}
	})
	if concat || spec.flags&unix.NFT_SET_INTERVAL == 0 || key.catchAll() {
		return
	}
	if end, ok := next(key.to); ok {
		list.Nest(unix.NFTA_LIST_ELEM, func(a *nfnl.Attrs) {
			a.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
			appendData(a, unix.NFTA_SET_ELEM_KEY, end)
		})
	}
}

func appendData(a *nfnl.Attrs, typ uint16, value string) {
	a.Nest(typ, func(a *nfnl.Attrs) { a.Bytes(unix.NFTA_DATA_VALUE, []byte(value)) })
}

func appendVerdict(a *nfnl.Attrs, value elementValue) {
	a.Nest(unix.NFTA_DATA_VERDICT, func(a *nfnl.Attrs) {
		a.Bytes(unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, uint32(value.verdict)))
		if value.chain != "" {
			a.String(unix.NFTA_VERDICT_CHAIN, value.chain)
		}
	})
}

// sorted makes a transaction the same for the same input.
func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
