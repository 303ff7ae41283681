package filter

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// subject is what policies say of a pod in one direction: the rules of all that select it, in the order in which they are asked, with the ports of the pod in
// the place of names. Pods of which the same is said share it. Its rules never change: a policy that changes makes another subject of its pods.
type subject struct {
	direction policy.Direction
	chain     policy.Chain // for explanations
	text      string
	number    uint32
	name      string // of its nftables chain
	isolated  bool   // a NetworkPolicy decides
	rules     []subjectRule
	terms     []*term

	byDefault *ports            // for a class that answers none of its terms
	pairs     map[*class]*ports // for those for which it is something else
	memo      map[string]*ports // what was evaluated, by which rules match
	users     int               // local pods
	born      bool              // by the Plan that is being made
	dying     bool              // by it, too
}

// subjectRule is a rule of a subject.
type subjectRule struct {
	tier      store.PolicyTier
	action    store.PolicyAction
	everybody bool
	terms     []*term
	ports     portset // but for names that the peer has to tell
	names     []*term
}

// subjectFor returns the subject of a pod with this chain; nil when no policy has a say.
func (f *Filter) subjectFor(chain policy.Chain, pod *store.Pod) *subject {
	if chain.Empty() {
		return nil
	}
	s := &subject{direction: chain.Direction, isolated: len(chain.Isolating) > 0}
	var text strings.Builder // a pod may have a thousand policies
	text.WriteString(chain.Direction.String() + "\n")
	for _, p := range chain.Isolating {
		text.WriteString("isolated by " + p.Name.String() + "\n")
	}
	rules := chain.Rules()
	resolved := make([]portset, len(rules))
	for i, r := range rules {
		resolved[i] = resolve(r, chain.Direction, pod)
		text.WriteString(ruleText(r, chain.Direction, resolved[i]))
	}
	s.text = text.String()
	if known := f.subjects[s.text]; known != nil {
		known.chain = chain
		return known
	}
	s.chain = chain
	s.number = f.subjectNumbers.take(s.text, plain)
	s.name = fmt.Sprintf("%s-%08x", s.direction, s.number)
	for i, r := range rules {
		s.rules = append(s.rules, f.subjectRule(s, r, resolved[i]))
	}
	s.pairs, s.memo, s.born = map[*class]*ports{}, map[string]*ports{}, true
	f.subjects[s.text] = s
	f.bornSubjects = append(f.bornSubjects, s)
	return s
}

// resolve returns the ports of a rule, as far as the peer has not to be asked.
func resolve(r policy.Rule, direction policy.Direction, pod *store.Pod) portset {
	if len(r.Ports) == 0 {
		return full
	}
	if direction == policy.Egress {
		pod = nil
	}
	var ranges []policy.PortRange
	for _, p := range r.Ports {
		ranges = append(ranges, policy.PortRanges(p, pod)...)
	}
	return portsOf(ranges)
}

// ruleText is canonical: hashes of it are in the kernel.
func ruleText(r policy.Rule, direction policy.Direction, ports portset) string {
	var peers, names []string
	for _, p := range r.Peers {
		namespace := r.Namespace
		if p.Namespaces != nil {
			namespace = ""
		}
		peers = append(peers, peerText(p, namespace))
	}
	if direction == policy.Egress {
		for _, p := range r.Ports {
			if p.Name != "" {
				names = append(names, fmt.Sprintf("%d %s", p.Protocol, p.Name))
			}
		}
	}
	slices.Sort(peers)
	slices.Sort(names)
	return fmt.Sprintf("%s %q rule %d: %s; peers %q; ports %q named %q\n", r.Tier, r.Policy, r.Number, r.Action, peers, ports.String(), names)
}

func (f *Filter) subjectRule(s *subject, r policy.Rule, resolved portset) subjectRule {
	made := subjectRule{tier: r.Tier, action: r.Action, everybody: len(r.Peers) == 0, ports: resolved}
	link := func(t *term) *term {
		if _, twice := t.subjects[s]; !twice {
			t.subjects[s] = struct{}{}
			s.terms = append(s.terms, t)
		}
		return t
	}
	for _, p := range r.Peers {
		made.terms = append(made.terms, link(f.termFor(p, r.Namespace)))
	}
	if s.direction == policy.Egress {
		for _, p := range r.Ports {
			if p.Name != "" {
				made.names = append(made.names, link(f.nameFor(p)))
			}
		}
	}
	return made
}

// evaluate returns what the subject leaves open for a class.
func (f *Filter) evaluate(s *subject, c *class) *ports {
	if c == nil {
		return f.evaluateOne(s, nil)
	}
	result := f.evaluateOne(s, c.alternatives[0])
	for _, a := range c.alternatives[1:] {
		result = f.portsFor(result.with(f.evaluateOne(s, a).portset, and))
	}
	return result
}

func (f *Filter) evaluateOne(s *subject, answers []*answer) *ports {
	f.evaluation++
	for _, a := range answers {
		a.term.asked, a.term.hand = f.evaluation, a
	}
	asked := func(t *term) bool { return t.asked == f.evaluation }
	matches := make([]bool, len(s.rules))
	f.matched = f.matched[:0]
	for i, r := range s.rules {
		if matches[i] = r.everybody || slices.ContainsFunc(r.terms, asked); !matches[i] {
			continue
		}
		f.matched = binary.BigEndian.AppendUint32(f.matched, uint32(i))
		for _, t := range r.names {
			if asked(t) {
				f.matched = binary.BigEndian.AppendUint32(f.matched, uint32(t.hand.id))
			}
		}
		f.matched = append(f.matched, '|')
	}
	if known := s.memo[string(f.matched)]; known != nil {
		if known.known {
			return known
		}
		return f.portsFor(known.portset)
	}
	result := f.portsFor(s.open(func(i int) (portset, bool) {
		if !matches[i] {
			return portset{}, false
		}
		open := s.rules[i].ports
		for _, t := range s.rules[i].names {
			if asked(t) {
				open = open.with(t.hand.ports, or)
			}
		}
		return open, true
	}))
	s.memo[string(f.matched)] = result
	return result
}

// open works the rules off in their order. about says what the rule with the index is about, unless it does not match.
func (s *subject) open(about func(rule int) (portset, bool)) portset {
	open, rest := s.tier(store.TierAdmin, full, about)
	if s.isolated {
		for i, r := range s.rules {
			if ports, ok := about(i); ok && r.tier == policy.TierNetworkPolicy {
				open = open.with(ports.with(rest, and), or)
			}
		}
		return open
	}
	accepted, rest := s.tier(store.TierBaseline, rest, about)
	return open.with(accepted, or).with(rest, or)
}

// tier returns what of the undecided a tier of ClusterNetworkPolicies opens, and what it leaves to the next.
func (s *subject) tier(tier store.PolicyTier, undecided portset, about func(rule int) (portset, bool)) (open, rest portset) {
	for i, r := range s.rules {
		if r.tier != tier {
			continue
		}
		ports, ok := about(i)
		if !ok {
			continue
		}
		ports = ports.with(undecided, and)
		undecided = undecided.with(ports, andNot)
		switch r.action {
		case store.ActionAccept:
			open = open.with(ports, or)
		case store.ActionPass:
			rest = rest.with(ports, or)
		}
	}
	return open, rest.with(undecided, or)
}

// comment names the policies, as far as there is room.
func (s *subject) comment() string {
	var names []string
	for _, p := range s.chain.Admin {
		names = append(names, p.Name)
	}
	for _, p := range s.chain.Isolating {
		names = append(names, p.Name.String())
	}
	for _, p := range s.chain.Baseline {
		names = append(names, p.Name)
	}
	const room = 110
	text := ""
	for i, name := range names {
		if len(text)+len(name) > room {
			return strings.TrimSpace(fmt.Sprintf("%s and %d more", text, len(names)-i))
		}
		if i > 0 {
			text += " "
		}
		text += name
	}
	return text
}

// render returns the chain of the subject.
func (s *subject) render() kernel.Chain {
	class, result, refuse := gate.ChainDestinationClass, gate.ChainEgressResult, gate.ChainRefuseEgress
	if s.direction == policy.Ingress {
		class, result, refuse = gate.ChainSourceClass, gate.ChainIngressResult, gate.ChainRefuseIngress
	}
	own := []kernel.Operand{kernel.Numgen{Modulus: 1, Offset: s.number}, kernel.FieldPriority}
	judge := kernel.Verdict{Kind: kernel.Goto, Chain: result}
	rules := []kernel.Rule{
		{Exprs: []kernel.Expr{kernel.Verdict{Kind: kernel.Jump, Chain: class}}},
		{Exprs: []kernel.Expr{kernel.SetPriority{Fields: own, Map: gate.SetPairs}, judge}},
	}
	switch n := s.byDefault.number; n {
	case gate.PortsAll:
		rules = append(rules, kernel.Rule{Exprs: []kernel.Expr{kernel.SetPriority{}}})
	case gate.PortsNone:
		rules = append(rules, kernel.Rule{Exprs: []kernel.Expr{kernel.Verdict{Kind: kernel.Goto, Chain: refuse}}})
	default:
		rules = append(rules, kernel.Rule{Exprs: []kernel.Expr{
			kernel.SetPriority{Fields: []kernel.Operand{kernel.Numgen{Modulus: 1, Offset: n}}}, judge,
		}})
	}
	return kernel.Chain{Name: s.name, Comment: s.comment(), Rules: rules}
}
