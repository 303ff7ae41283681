package filter

import (
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// Plan is what has to be written: Before with ChangeElements, then Table with SyncTables, then After with ChangeElements; without a Table, the other two may go
// together. Each step may be divided into transactions between SetChanges, in their order; a SetChange itself has at most MaxChange elements and stays whole.
type Plan struct {
	Before []kernel.SetChange
	Table  *kernel.Table // nil: it is as it was
	After  []kernel.SetChange

	// Changed: the verdict about some connection may differ from the one before, so connections that are established have to be looked at.
	Changed bool
	// Pressing: such a connection may go on, or stand still, that is not of an address which a pod of this node has got or given up just now. One of those
	// was closed before, or has nobody any more who could go on with it.
	Pressing bool
}

// MaxChange is the largest number of elements in a SetChange of a Plan.
const MaxChange = 500

// Empty reports whether there is nothing to write.
func (p Plan) Empty() bool { return len(p.Before)+len(p.After) == 0 && p.Table == nil }

// Plan returns what differs since the last Plan, or Compare. It supposes that what those returned was written: if that failed, call Compare. What
// one Plan could only stop using, the next one removes; so call it until it is Empty.
func (f *Filter) Plan() Plan {
	f.sweepLingering()
	f.settleLocals()
	f.settlePods()
	f.settleAddresses()
	f.sweepSubjects()
	f.sweepClasses()
	f.sweepPorts()
	for _, t := range f.bornTerms {
		t.born = false
	}
	f.bornTerms, f.dyingTerms, f.bornSubjects, f.dyingSubjects = nil, nil, nil, nil
	if f.step.locals {
		f.step.table, f.step.changed = true, true
		f.openLocals()
	}
	plan := f.step.plan()
	if f.step.table {
		table := f.table()
		plan.Table = &table
	}
	f.step = step{}
	return plan
}

// openLocals notes which addresses of this node are open, as far as their policies go.
func (f *Filter) openLocals() {
	clear(f.opened)
	for addr, l := range f.localAddrs {
		if l != nil && l.enforced {
			f.opened[addr] = l
		}
	}
}

// sweepSubjects removes subjects that no local pod has, with their pairs and the terms that nobody else asks.
func (f *Filter) sweepSubjects() {
	for _, s := range f.dyingSubjects {
		for c := range s.pairs {
			f.unpair(s, c)
		}
		f.unuse(s.byDefault)
		for _, t := range s.terms {
			if delete(t.subjects, s); len(t.subjects) == 0 {
				delete(f.terms, t.text)
			}
		}
		delete(f.subjects, s.text)
		f.subjectNumbers.free(s.number)
	}
	if len(f.dyingSubjects) > 0 {
		f.forgetChoices()
	}
}

// item is what becomes of an element: it goes, it comes, or it gets another value.
type item struct {
	key, value  string
	remove, add bool
}

// list is what becomes of a set.
type list []item

func (l *list) add(entries ...kernel.Entry) {
	for _, e := range entries {
		*l = append(*l, item{key: e.Key, value: e.Value, add: true})
	}
}

func (l *list) remove(keys ...string) {
	for _, key := range keys {
		*l = append(*l, item{key: key, remove: true})
	}
}

// changes appends the items as SetChanges of at most MaxChange elements. Removal and addition of one key are in one of them.
func (l list) changes(out []kernel.SetChange, set string) []kernel.SetChange {
	for part := range slices.Chunk(l, MaxChange/2) {
		c := kernel.SetChange{Set: set}
		for _, one := range part {
			if one.remove {
				c.Remove = append(c.Remove, one.key)
			}
			if one.add {
				c.Add = append(c.Add, kernel.Entry{Key: one.key, Value: one.value})
			}
		}
		out = append(out, c)
	}
	return out
}

// step is a Plan that is being made.
type step struct {
	ports, pairs             list    // what is new
	before, after            [2]list // pods, by version of IP
	removePorts, removePairs list
	locals, table            bool
	changed, pressing        bool // of the Plan
}

// plan puts it into the order in which nothing leads to what is not there.
func (s *step) plan() Plan {
	p := Plan{Changed: s.changed || s.pressing, Pressing: s.pressing}
	p.Before = s.ports.changes(p.Before, gate.SetPorts)
	p.Before = s.pairs.changes(p.Before, gate.SetPairs)
	for i, v := range gate.Versions() {
		p.Before = s.before[i].changes(p.Before, v.Pods)
		p.After = s.after[i].changes(p.After, v.Pods)
	}
	p.After = s.removePairs.changes(p.After, gate.SetPairs)
	p.After = s.removePorts.changes(p.After, gate.SetPorts)
	return p
}
