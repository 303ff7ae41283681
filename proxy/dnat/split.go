package dnat

import "github.com/twill-cni/twill/kernel"

// Split divides changes into transactions of about that many elements each, to be committed in order: first what is new and nothing leads to yet, then
// what is replaced and what leads to the new, each frontend at once, and in the end what nothing leads to any more. Between any two, a frontend
// does what it did before, which may be to let packets pass to another service proxy, or what it is to do. Changes that are few enough are one transaction.
func Split(changes []kernel.SetChange, most int) [][]kernel.SetChange {
	total := 0
	for _, c := range changes {
		total += len(c.Remove) + len(c.Add)
	}
	if total == 0 {
		return nil
	}
	s := splitter{most: max(most, 1)}
	if total <= s.most {
		return [][]kernel.SetChange{changes}
	}
	var leading, refusing kernel.SetChange
	var gone []kernel.SetChange
	at := frontends{index: map[string]int{}}
	for _, c := range changes {
		if c.Set == setServices {
			leading = c
			continue
		}
		fresh, pairs, rest := sortOut(c)
		if c.Set == setClusterIPs { // what is sent to one of them and is no frontend's is refused
			refusing = fresh
		} else {
			s.put(fresh)
		}
		at.add(pairs)
		gone = append(gone, rest)
	}
	if len(at.changes)+len(leading.Remove) == 0 { // as at first
		s.put(leading)
	} else {
		at.add(leading)
	}
	for _, group := range at.changes {
		s.putWhole(group)
	}
	s.put(refusing)
	for _, c := range gone {
		s.put(c)
	}
	return s.out
}

// frontends are changes by the frontend that they belong to.
type frontends struct {
	index   map[string]int
	changes [][]kernel.SetChange
}

func (f *frontends) add(c kernel.SetChange) {
	for _, key := range c.Remove {
		of := f.of(c.Set, key)
		of.Remove = append(of.Remove, key)
	}
	for _, e := range c.Add {
		of := f.of(c.Set, e.Key)
		of.Add = append(of.Add, e)
	}
}

// of returns the change of a set that a key belongs into.
func (f *frontends) of(set, key string) *kernel.SetChange {
	switch set {
	case setEndpoints, setSlots, setMembers:
		key = key[:len(key)-4] // without the slot or member
	}
	i, ok := f.index[key]
	if !ok {
		i = len(f.changes)
		f.index[key] = i
		f.changes = append(f.changes, nil)
	}
	group := &f.changes[i]
	for k := range *group {
		if (*group)[k].Set == set {
			return &(*group)[k]
		}
	}
	*group = append(*group, kernel.SetChange{Set: set})
	return &(*group)[len(*group)-1]
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

// putWhole adds changes that belong together.
func (s *splitter) putWhole(group []kernel.SetChange) {
	n := 0
	for _, c := range group {
		n += len(c.Remove) + len(c.Add)
	}
	s.reserve(min(n, s.most))
	for _, c := range group {
		s.append(c)
	}
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
	s.room = max(0, s.room-len(c.Remove)-len(c.Add))
	last := &s.out[len(s.out)-1]
	if n := len(*last); n > 0 && (*last)[n-1].Set == c.Set {
		end := &(*last)[n-1]
		end.Remove, end.Add = append(end.Remove, c.Remove...), append(end.Add, c.Add...)
		return
	}
	*last = append(*last, c)
}
