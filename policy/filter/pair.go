package filter

import "github.com/twill-cni/twill/kernel"

// pairClass adds the pairs of a new class. A subject that is dying meets classes that are transitional, and no others.
func (f *Filter) pairClass(c *class, transitional bool) {
	c.each(func(a *answer) {
		for s := range a.term.subjects {
			if transitional || !s.dying {
				f.pair(s, c)
			}
		}
	})
}

// pairSubject adds those of a new subject.
func (f *Filter) pairSubject(s *subject) {
	for _, t := range s.terms {
		for _, a := range t.answers {
			for c := range a.classes {
				f.pair(s, c)
			}
		}
	}
}

func (f *Filter) pair(s *subject, c *class) {
	if s.pairs[c] != nil {
		return
	}
	p := f.evaluate(s, c)
	if p == s.byDefault {
		return
	}
	s.pairs[c] = p
	f.pairs++
	f.use(p)
	f.step.pairs.add(kernel.Entry{Key: pairKey(s, c), Value: p.value})
}

func (f *Filter) unpair(s *subject, c *class) {
	p := s.pairs[c]
	if p == nil {
		return
	}
	delete(s.pairs, c)
	f.pairs--
	f.unuse(p)
	f.step.removePairs.remove(pairKey(s, c))
}

func pairKey(s *subject, c *class) string {
	return string(kernel.AppendNumber(kernel.AppendNumber(nil, s.number), c.number))
}

// between returns what a subject leaves open for a class, from what is in the kernel.
func (s *subject) between(c *class) *ports {
	if p := s.pairs[c]; p != nil {
		return p
	}
	return s.byDefault
}
