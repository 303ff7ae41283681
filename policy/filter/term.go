package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// term is a question about an address that policies on this node ask: is it a pod's with certain labels, is it in a block, which port has the pod under a
// name? Equal questions are one term.
type term struct {
	id   int
	text string

	peer      store.PolicyPeer // of pods, or a block
	namespace string           // the policy's; empty when the peer says which namespaces it means
	port      store.PolicyPort // with Name: the question is which port that is

	subjects map[*subject]struct{} // whose rules ask
	live     int                   // of these, those that local pods have
	known    bool                  // it is in the Filter's indexes
	born     bool                  // by the Plan that is being made
	answers  map[string]*answer    // by text; those that an address of a class may have given
	yes      *answer               // of a term without a name

	asked uint64 // the answer in hand is of the evaluation with this number
	hand  *answer
}

// answer is a term with what an address says to it; a class is a set of them. That an address does not match is no answer.
type answer struct {
	id      int
	term    *term
	text    string
	ports   portset // of a term with a name
	classes map[*class]struct{}
}

// termFor returns the term for a peer of a policy of the namespace.
func (f *Filter) termFor(peer store.PolicyPeer, namespace string) *term {
	if peer.Namespaces != nil || peer.Block.IsValid() {
		namespace = ""
	}
	return f.term(peerText(peer, namespace), func(t *term) { t.peer, t.namespace = peer, namespace })
}

// nameFor returns the term that asks for a named port.
func (f *Filter) nameFor(port store.PolicyPort) *term {
	return f.term(fmt.Sprintf("port %d %s", port.Protocol, port.Name), func(t *term) { t.port = port })
}

func (f *Filter) term(text string, fill func(*term)) *term {
	if t := f.terms[text]; t != nil {
		return t
	}
	f.lastID++
	t := &term{id: f.lastID, text: text, subjects: map[*subject]struct{}{}, answers: map[string]*answer{}}
	fill(t)
	f.terms[text] = t
	if t.port.Name == "" {
		t.yes = f.answer(t, "", portset{})
	}
	return t
}

func (f *Filter) answer(t *term, said string, ports portset) *answer {
	if a := t.answers[said]; a != nil {
		return a
	}
	f.lastID++
	a := &answer{id: f.lastID, term: t, text: t.text, ports: ports, classes: map[*class]struct{}{}}
	if said != "" {
		a.text += " = " + said
	}
	t.answers[said] = a
	return a
}

// peerText is canonical: hashes of it are in the kernel.
func peerText(peer store.PolicyPeer, namespace string) string {
	if peer.Block.IsValid() {
		except := make([]string, 0, len(peer.Except))
		for _, e := range peer.Except {
			except = append(except, e.Masked().String())
		}
		slices.Sort(except)
		return fmt.Sprintf("block %s except %s", peer.Block.Masked(), strings.Join(slices.Compact(except), ","))
	}
	pods := ""
	if peer.Pods != nil {
		pods = peer.Pods.String()
	}
	if peer.Namespaces != nil {
		return fmt.Sprintf("pods %s of namespaces %s", pods, peer.Namespaces)
	}
	return fmt.Sprintf("pods %s of %s", pods, namespace)
}

// ask returns what a pod says to a term about labels or names, once its namespace is known to match.
func (f *Filter) ask(t *term, pod *store.Pod) *answer {
	if t.port.Name != "" {
		s := portsOf(policy.PortRanges(t.port, pod))
		if s.count() == 0 {
			return nil
		}
		return f.answer(t, s.String(), s)
	}
	if t.peer.Pods == nil || t.peer.Pods.Matches(pod.Labels) {
		return t.yes
	}
	return nil
}

// index enters the term where pods and addresses find it, or takes it out, and marks what is concerned.
func (f *Filter) index(t *term, in bool) {
	t.known = in
	switch {
	case t.port.Name != "":
		set(f.names, t, in)
		for _, p := range f.pods {
			if slices.ContainsFunc(p.object.Ports, func(own store.PodPort) bool { return own.Name == t.port.Name }) {
				f.dirtyPods[p] = true
			}
		}
	case t.peer.Block.IsValid():
		set(f.blocks, t, in)
		f.dirtyBlocks = true
	case t.namespace != "":
		bound := f.bound[t.namespace]
		if bound == nil {
			bound = map[*term]bool{}
			f.bound[t.namespace] = bound
		}
		set(bound, t, in)
		if len(bound) == 0 {
			delete(f.bound, t.namespace)
		}
		f.touch(f.namespaces[t.namespace])
	default:
		set(f.unbound, t, in)
		for name, n := range f.namespaces {
			if t.peer.Namespaces.Matches(policy.NamespaceLabels(name, n.object)) {
				f.touch(n)
			}
		}
	}
}

func set[K comparable](m map[K]bool, key K, in bool) {
	if in {
		m[key] = true
	} else {
		delete(m, key)
	}
}

// touch marks a namespace's pods: its terms, or its labels, are other ones.
func (f *Filter) touch(n *namespace) {
	if n == nil {
		return
	}
	n.terms = nil
	for p := range n.pods {
		f.dirtyPods[p] = true
	}
}

// termsOf returns the terms about labels that pods of the namespace may match.
func (f *Filter) termsOf(n *namespace) []*term {
	if n.terms == nil {
		n.terms = []*term{}
		for t := range f.bound[n.name] {
			n.terms = append(n.terms, t)
		}
		labels := policy.NamespaceLabels(n.name, n.object)
		for t := range f.unbound {
			if t.peer.Namespaces.Matches(labels) {
				n.terms = append(n.terms, t)
			}
		}
	}
	return n.terms
}

// answersOf returns all that a pod says, sorted.
func (f *Filter) answersOf(p *pod) []*answer {
	var out []*answer
	for _, t := range f.termsOf(p.namespace) {
		if a := f.ask(t, p.object); a != nil {
			out = append(out, a)
		}
	}
	if len(p.object.Ports) > 0 {
		for t := range f.names {
			if a := f.ask(t, p.object); a != nil {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, byID)
	return out
}

func byID(a, b *answer) int { return a.id - b.id }

// network is a range of addresses that blocks do not tell apart.
type network struct {
	first, last netip.Addr
	answers     []*answer // sorted; at least one
	class       *class
}

// edge is where a part of a block begins or ends.
type edge struct {
	at      netip.Addr
	term    *term
	in, out int // by how many more blocks contain what follows, and exceptions
}

// partition returns the disjoint ranges of the blocks of both families, sorted.
func partition(blocks map[*term]bool) []network {
	var edges []edge
	add := func(t *term, p netip.Prefix, in, out int) {
		p = p.Masked()
		edges = append(edges, edge{p.Addr(), t, in, out})
		if end := lastOf(p).Next(); end.IsValid() {
			edges = append(edges, edge{end, t, -in, -out})
		}
	}
	for t := range blocks {
		add(t, t.peer.Block, 1, 0)
		for _, e := range t.peer.Except {
			if e.Addr().Is4() == t.peer.Block.Addr().Is4() {
				add(t, e, 0, 1)
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	var out []network
	state := map[*term][2]int{}
	inside := map[*answer]bool{}
	for i, e := range edges {
		if i > 0 && e.at.Is4() != edges[i-1].at.Is4() { // what reaches the end of IPv4 ends there
			clear(state)
			clear(inside)
		}
		s := state[e.term]
		s[0], s[1] = s[0]+e.in, s[1]+e.out
		state[e.term] = s
		set(inside, e.term.yes, s[0] > 0 && s[1] == 0)
		last := i == len(edges)-1
		if !last && edges[i+1].at == e.at || len(inside) == 0 {
			continue
		}
		end := lastOf(netip.PrefixFrom(e.at, 0))
		if !last && edges[i+1].at.Is4() == e.at.Is4() {
			end = edges[i+1].at.Prev()
		}
		out = join(out, network{first: e.at, last: end, answers: sorted(inside)})
	}
	return out
}

// join appends a network, or makes the last one longer.
func join(all []network, n network) []network {
	if i := len(all) - 1; i >= 0 && all[i].last.Next() == n.first && slices.Equal(all[i].answers, n.answers) {
		all[i].last = n.last
		return all
	}
	return append(all, n)
}

func sorted(answers map[*answer]bool) []*answer {
	out := make([]*answer, 0, len(answers))
	for a := range answers {
		out = append(out, a)
	}
	slices.SortFunc(out, byID)
	return out
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		if keep := p.Bits() - 8*i; keep < 8 {
			b[i] |= 0xff >> max(keep, 0)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// find returns the network that contains the address, if any.
func find(networks []network, a netip.Addr) *network {
	i, _ := slices.BinarySearchFunc(networks, a, func(n network, a netip.Addr) int { return n.last.Compare(a) })
	if i < len(networks) && networks[i].first.Compare(a) <= 0 && networks[i].last.BitLen() == a.BitLen() {
		return &networks[i]
	}
	return nil
}
