package filter

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// class is what the policies on this node can tell about an address: its answers to their terms. An address that several pods claim has alternatives, and a
// connection has to be allowed by each. The address that answers nothing has no class (nil), and class 0 in the kernel.
type class struct {
	key          string
	alternatives [][]*answer // at least one; each sorted
	text         string
	number       uint32
	value        string // the number, as a value of pods
	users        int    // addresses and networks
	idle         bool   // it was found without users
	dead         bool
}

// classOf returns the class of the alternatives, which are sorted each, and makes it if need be.
func (f *Filter) classOf(alternatives [][]*answer, transitional bool) *class {
	if len(alternatives) == 0 || len(alternatives) == 1 && len(alternatives[0]) == 0 {
		return nil
	}
	f.key = f.key[:0]
	if len(alternatives) == 1 {
		f.key = appendAnswers(f.key, alternatives[0])
	} else {
		keys := make([]string, len(alternatives))
		byKey := map[string][]*answer{}
		for i, a := range alternatives {
			keys[i] = string(appendAnswers(nil, a))
			byKey[keys[i]] = a
		}
		slices.Sort(keys)
		keys = slices.Compact(keys)
		alternatives = nil
		for _, k := range keys {
			f.key = append(append(f.key, k...), 0xff, 0xff, 0xff, 0xff)
			alternatives = append(alternatives, byKey[k])
		}
		if len(alternatives) == 1 {
			return f.classOf(alternatives, transitional)
		}
	}
	if c := f.classes[string(f.key)]; c != nil {
		return c
	}
	c := &class{key: string(f.key)}
	for _, a := range alternatives {
		c.alternatives = append(c.alternatives, slices.Clone(a))
	}
	c.text = textOf(alternatives)
	c.number = f.classNumbers.take(c.text, plain)
	c.value = string(kernel.AppendNumber(nil, c.number))
	f.classes[c.key] = c
	c.each(func(a *answer) { a.classes[c] = struct{}{} })
	f.pairClass(c, transitional)
	f.unusedClasses = append(f.unusedClasses, c) // until somebody uses it
	return c
}

func appendAnswers(b []byte, answers []*answer) []byte {
	for _, a := range answers {
		b = binary.BigEndian.AppendUint32(b, uint32(a.id))
	}
	return b
}

// textOf does not depend on the order in which answers became known.
func textOf(alternatives [][]*answer) string {
	var all []string
	for _, one := range alternatives {
		var texts []string
		for _, a := range one {
			texts = append(texts, a.text)
		}
		slices.Sort(texts)
		all = append(all, strings.Join(texts, "\n"))
	}
	slices.Sort(all)
	return strings.Join(all, "\nor\n")
}

// each calls do with each answer; with one that is in several alternatives several times.
func (c *class) each(do func(*answer)) {
	if c == nil {
		return
	}
	for _, alternative := range c.alternatives {
		for _, a := range alternative {
			do(a)
		}
	}
}

// hold counts a user of a class.
func (f *Filter) hold(c *class) *class {
	if c != nil {
		c.users++
	}
	return c
}

// release takes a user away.
func (f *Filter) release(c *class) {
	if c == nil {
		return
	}
	if c.users--; c.users == 0 {
		f.unusedClasses = append(f.unusedClasses, c)
	}
}

// idleMost is how many classes without users stay in the kernel with their pairs. A pod whose labels go forth and back, or the next of a kind of pod of which
// there is one at a time, is then a change of its element alone.
const idleMost = 64

// sweepClasses removes classes without users, and the pairs that they are in: those that ask what nobody asks any more, and of the others the oldest.
func (f *Filter) sweepClasses() {
	for _, c := range f.unusedClasses {
		if !c.idle && !c.dead {
			c.idle = true
			f.idleClasses = append(f.idleClasses, c)
		}
	}
	f.unusedClasses = f.unusedClasses[:0]
	f.idleClasses = slices.DeleteFunc(f.idleClasses, func(c *class) bool {
		if c.users > 0 {
			c.idle = false
		} else if len(f.dyingTerms) > 0 && c.isOver() {
			f.removeClass(c)
		}
		return c.users > 0 || c.dead
	})
	if excess := len(f.idleClasses) - f.idleMost; excess > 0 {
		for _, c := range f.idleClasses[:excess] {
			f.removeClass(c)
		}
		f.idleClasses = slices.Delete(f.idleClasses, 0, excess)
	}
}

// isOver reports whether the class has an answer to a term that nobody asks any more.
func (c *class) isOver() (over bool) {
	c.each(func(a *answer) { over = over || a.term.live == 0 })
	return over
}

func (f *Filter) removeClass(c *class) {
	c.dead = true
	c.each(func(a *answer) {
		for s := range a.term.subjects {
			f.unpair(s, c)
		}
		delete(a.classes, c)
	})
	delete(f.classes, c.key)
	f.classNumbers.free(c.number)
}
