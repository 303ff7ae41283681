package filter

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// settleLocals finds the subjects of local pods.
func (f *Filter) settleLocals() {
	for _, l := range f.locals {
		if f.allLocals || f.localsIn[l.key.Name.Namespace] {
			f.dirtyLocals[l] = true
		}
	}
	if f.allLocals {
		clear(f.chosen)
	}
	for namespace := range f.localsIn {
		delete(f.chosen, namespace)
	}
	f.allLocals = false
	clear(f.localsIn)
	if len(f.dirtyLocals)+len(f.goneLocals) == 0 {
		return
	}
	for _, l := range slices.SortedFunc(maps.Keys(f.dirtyLocals), compareLocals) {
		f.settleLocal(l)
	}
	for _, l := range f.goneLocals {
		f.assign(l, nil, [2]*subject{})
	}
	clear(f.dirtyLocals)
	f.goneLocals = nil
	f.settleSubjects()
}

func compareLocals(a, b *local) int {
	return cmp.Or(a.key.Name.Compare(b.key.Name), cmp.Compare(a.key.Node, b.key.Node), cmp.Compare(a.uid, b.uid))
}

func (f *Filter) settleLocal(l *local) {
	p := f.enforceable(l.localID)
	var now [2]*subject
	if p != nil {
		now = f.choose(p)
	}
	f.assign(l, p, now)
}

// assign gives a local pod its subjects.
func (f *Filter) assign(l *local, p *pod, now [2]*subject) {
	if stays := f.locals[l.localID] == l; stays && l.enforced && (p == nil || now != l.subjects) {
		f.step.pressing = true
	}
	if enforced := p != nil; enforced != l.enforced {
		l.enforced, f.step.locals = enforced, true
		for _, addr := range l.addrs {
			f.address(addr)
		}
	}
	for d, s := range now {
		if s != nil {
			s.users++
		}
		if old := l.subjects[d]; old != nil {
			if old.users--; old.users == 0 {
				f.dyingSubjects = append(f.dyingSubjects, old)
			}
		}
		if s != l.subjects[d] {
			l.subjects[d], f.step.locals = s, true
		}
	}
}

// settleSubjects brings the terms of new subjects to life, and ends those of subjects that nobody has any more.
func (f *Filter) settleSubjects() {
	for _, s := range f.bornSubjects {
		s.byDefault = f.evaluate(s, nil)
		f.use(s.byDefault)
		for _, t := range s.terms {
			if t.live++; !t.known {
				t.known, t.born = true, true
				f.bornTerms = append(f.bornTerms, t)
			}
		}
	}
	f.dyingSubjects = slices.DeleteFunc(f.dyingSubjects, func(s *subject) bool {
		if s.users > 0 || s.dying {
			return true
		}
		s.dying = true
		return false
	})
	for _, s := range f.dyingSubjects {
		for _, t := range s.terms {
			if t.live--; t.live == 0 {
				f.dyingTerms = append(f.dyingTerms, t)
			}
		}
	}
	for _, s := range f.bornSubjects {
		f.pairSubject(s)
	}
	for _, t := range f.dyingTerms {
		f.index(t, false)
	}
	for _, t := range f.bornTerms {
		f.index(t, true)
	}
}

// settlePods asks pods what has to be asked anew.
func (f *Filter) settlePods() {
	for p := range f.dirtyPods {
		answers := f.answersOf(p)
		if slices.Equal(answers, p.answers) {
			continue
		}
		p.answers = answers
		for _, addr := range p.object.Addrs {
			f.address(addr.Unmap())
		}
		for _, l := range f.localsOf[p.object.Key()] {
			for _, addr := range l.addrs {
				f.address(addr)
			}
		}
	}
	f.dirtyPods = emptied(f.dirtyPods)
}

// move is what becomes of an address's class.
type move struct {
	*address
	seen         *class    // what the kernel takes it for so far
	transitional *class    // what it should be taken for from Before on
	networks     [2]*class // what the networks say, before and after Table
}

// settleAddresses finds the classes of addresses, and plans the elements of pods.
//
// A packet may meet the old subjects with new classes, and new subjects with old classes, since those are written one after the other. So an address goes
// first to a class that answers both the old terms, as it did, and those that are new: old subjects see no difference, and new ones find what
// they ask for. It gets rid of what is old when nobody asks any more.
func (f *Filter) settleAddresses() {
	before := f.networks
	if f.dirtyBlocks {
		f.networks = partition(f.blocks)
		for _, a := range f.addrs {
			f.dirtyAddrs[a] = true
		}
	}
	moves := f.moves(before)
	if f.dirtyBlocks {
		for i := range f.networks {
			n := &f.networks[i]
			n.class = f.hold(f.classOf([][]*answer{n.answers}, false))
		}
		f.compareNetworks(before)
		for i := range moves {
			moves[i].networks[1] = classAt(f.networks, moves[i].addr)
		}
	}
	for _, m := range moves {
		f.first(m)
	}
	for _, m := range moves {
		f.finally(m)
	}
	for _, n := range before {
		if f.dirtyBlocks {
			f.release(n.class)
		}
	}
	f.dirtyBlocks = false
}

// moves collects the addresses that have to be looked at. All transitional classes are made before any other.
func (f *Filter) moves(before []network) []move {
	moves := make([]move, 0, len(f.dirtyAddrs))
	for a := range f.dirtyAddrs {
		m := move{address: a, seen: a.entry}
		m.networks[0] = classAt(before, a.addr)
		m.networks[1] = m.networks[0]
		if a.entry == nil {
			m.seen = m.networks[0]
		}
		moves = append(moves, m)
	}
	f.dirtyAddrs = emptied(f.dirtyAddrs)
	if len(moves) > 1 {
		slices.SortFunc(moves, func(a, b move) int { return a.addr.Compare(b.addr) })
	}
	for i := range moves {
		m := &moves[i]
		switch {
		case !m.settled:
			m.transitional = f.classOf(f.alternatives(m.address), true)
		case len(f.bornTerms) == 0:
			m.transitional = m.seen
		default:
			m.transitional = f.classOf(transition(m.seen, f.alternatives(m.address)), true)
		}
		f.hold(m.transitional)
	}
	return moves
}

// transition returns the answers that a class has, with those of the others that are to new terms: of several claimants each with its own, as far as their
// answers tell which is which.
func transition(seen *class, final [][]*answer) [][]*answer {
	old := [][]*answer{nil}
	if seen != nil {
		old = seen.alternatives
	}
	var out [][]*answer
	for _, had := range old {
		stay := without(had, func(t *term) bool { return t.live == 0 })
		same := slices.ContainsFunc(final, func(gets []*answer) bool { return slices.Equal(without(gets, isBorn), stay) })
		for _, gets := range final {
			if same && !slices.Equal(without(gets, isBorn), stay) {
				continue
			}
			both := slices.Concat(had, without(gets, func(t *term) bool { return !t.born }))
			slices.SortFunc(both, byID)
			out = append(out, slices.Compact(both))
		}
	}
	return out
}

func isBorn(t *term) bool { return t.born }

func without(answers []*answer, drop func(*term) bool) []*answer {
	return slices.DeleteFunc(slices.Clone(answers), func(a *answer) bool { return drop(a.term) })
}

// alternatives returns what an address answers, for each pod that claims it.
func (f *Filter) alternatives(a *address) [][]*answer {
	claimants := a.pods
	if l, local := f.localAddrs[a.addr]; local {
		claimants = nil
		if l != nil {
			if p := f.enforceable(l.localID); p != nil {
				claimants = []*pod{p}
			}
		}
	}
	var blocks []*answer
	if n := find(f.networks, a.addr); n != nil {
		blocks = n.answers
	}
	switch len(claimants) {
	case 0:
		return [][]*answer{blocks}
	case 1:
		if len(blocks) == 0 {
			return [][]*answer{claimants[0].answers}
		}
	}
	out := make([][]*answer, len(claimants))
	for i, p := range claimants {
		out[i] = slices.Concat(p.answers, blocks)
		slices.SortFunc(out[i], byID)
	}
	return out
}

// first plans what is written before the table.
func (f *Filter) first(m move) {
	if m.entry == nil && m.transitional == m.networks[0] && m.transitional == m.networks[1] {
		return
	}
	f.enterPod(&f.step.before, m.address, m.transitional)
}

// finally plans what is written after the table.
func (f *Filter) finally(m move) {
	final := f.classOf(f.alternatives(m.address), false)
	f.hold(final)
	if final != m.seen && !f.step.pressing && f.tells(m.seen, final) {
		f.step.changed = true
		f.step.pressing = f.opened[m.addr] == f.localAddrs[m.addr]
	}
	if final == m.networks[1] {
		f.enterPod(&f.step.after, m.address, nil)
	} else {
		f.enterPod(&f.step.after, m.address, final)
	}
	f.release(final)
	f.release(m.transitional)
	m.settled = true
	if _, local := f.localAddrs[m.addr]; !local && len(m.pods) == 0 && m.entry == nil {
		delete(f.addrs, m.addr)
	}
}

// enterPod makes the element of an address lead to a class; nil: there is none.
func (f *Filter) enterPod(moves *[2]list, a *address, c *class) {
	if a.entry == c {
		return
	}
	key := string(keyOf(a.addr))
	to := &moves[versionOf(a.addr)]
	one := item{key: key, remove: a.entry != nil, add: c != nil}
	if c != nil {
		one.value = c.value
	}
	*to = append(*to, one)
	f.hold(c)
	f.release(a.entry)
	a.entry = c
}

// tells reports whether a subject makes a difference between two classes.
func (f *Filter) tells(x, y *class) (differ bool) {
	look := func(a *answer) {
		for s := range a.term.subjects {
			differ = differ || !s.dying && s.between(x) != s.between(y)
		}
	}
	x.each(look)
	y.each(look)
	return differ
}

// compareNetworks notes whether what is no pod's may be judged otherwise.
func (f *Filter) compareNetworks(before []network) {
	f.step.table = f.step.table || !slices.EqualFunc(before, f.networks, func(a, b network) bool {
		return a.first == b.first && a.last == b.last && a.class == b.class
	})
	f.step.pressing = f.step.pressing || f.step.table
}

func classAt(networks []network, addr netip.Addr) *class {
	if n := find(networks, addr); n != nil {
		return n.class
	}
	return nil
}

func keyOf(addr netip.Addr) []byte { return kernel.AppendAddr(nil, addr) }

func versionOf(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// emptied returns a set without elements: to clear or to walk through a map costs what it once held.
func emptied[K comparable](set map[K]bool) map[K]bool {
	if len(set) > 100 {
		return map[K]bool{}
	}
	clear(set)
	return set
}
