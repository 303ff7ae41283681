package dnat

import "github.com/twill-cni/twill/kernel"

// Split divides changes into transactions of at most that many elements each, to be committed in order: first what is new and nothing leads to yet, then
// what is replaced and what leads to the new, and in the end what nothing leads to any more. Between any two, packets get to right endpoints.
// Changes that are few enough are one transaction.
func Split(changes []kernel.SetChange, most int) [][]kernel.SetChange {
	total := 0
	for _, c := range changes {
		total += len(c.Remove) + len(c.Add)
	}
	if total == 0 {
		return nil
	}
	s := splitter{most: max(most, 2)}
	if total <= s.most {
		return [][]kernel.SetChange{changes}
	}
	var replaced, leading, gone []kernel.SetChange
	for _, c := range changes {
		if c.Set == setServices {
			leading = append(leading, c)
			continue
		}
		fresh, pairs, rest := sortOut(c)
		s.put(fresh)
		replaced, gone = append(replaced, pairs), append(gone, rest)
	}
	for _, c := range append(replaced, leading...) {
		s.putPairs(c)
	}
	for _, c := range gone {
		s.put(c)
	}
	return s.out
}

// sortOut tells keys that are only added, those that are removed and added, and those that are only removed.
func sortOut(c kernel.SetChange) (fresh, pairs, gone kernel.SetChange) {
	if len(c.Remove) == 0 {
		return c, kernel.SetChange{Set: c.Set}, kernel.SetChange{Set: c.Set}
	}
	fresh, pairs, gone = kernel.SetChange{Set: c.Set}, kernel.SetChange{Set: c.Set}, kernel.SetChange{Set: c.Set}
	removed := make(map[string]bool, len(c.Remove))
	for _, k := range c.Remove {
		removed[k] = true
	}
	for _, e := range c.Add {
		if removed[e.Key] {
			pairs.Remove, pairs.Add = append(pairs.Remove, e.Key), append(pairs.Add, e)
			delete(removed, e.Key)
		} else {
			fresh.Add = append(fresh.Add, e)
		}
	}
	for _, k := range c.Remove {
		if removed[k] {
			gone.Remove = append(gone.Remove, k)
		}
	}
	return fresh, pairs, gone
}

// splitter fills transactions.
type splitter struct {
	most int
	out  [][]kernel.SetChange
	room int // in the last of out
}

// put adds changes that may be torn apart anywhere.
func (s *splitter) put(c kernel.SetChange) {
	for len(c.Remove)+len(c.Add) > 0 {
		s.reserve(1)
		n := min(s.room, len(c.Remove))
		m := min(s.room-n, len(c.Add))
		s.append(kernel.SetChange{Set: c.Set, Remove: c.Remove[:n:n], Add: c.Add[:m:m]})
		c.Remove, c.Add = c.Remove[n:], c.Add[m:]
	}
}

// putPairs adds changes in which a removal and an addition of the same key stay together.
func (s *splitter) putPairs(c kernel.SetChange) {
	fresh, pairs, gone := sortOut(c)
	for i, e := range pairs.Add {
		s.reserve(2)
		s.append(kernel.SetChange{Set: c.Set, Remove: pairs.Remove[i : i+1 : i+1], Add: []kernel.Entry{e}})
	}
	s.put(fresh)
	s.put(gone)
}

// reserve makes room for n elements in one transaction.
func (s *splitter) reserve(n int) {
	if s.room < n {
		s.out = append(s.out, nil)
		s.room = s.most
	}
}

// append adds to the last transaction, and to the change of the same set that may be its end.
func (s *splitter) append(c kernel.SetChange) {
	s.room -= len(c.Remove) + len(c.Add)
	last := &s.out[len(s.out)-1]
	if n := len(*last); n > 0 && (*last)[n-1].Set == c.Set {
		end := &(*last)[n-1]
		end.Remove, end.Add = append(end.Remove, c.Remove...), append(end.Add, c.Add...)
		return
	}
	*last = append(*last, c)
}
