package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// Differences says what SyncTables would find to be done for a table. It lists the table, whatever the Handle knows about it, and writes nothing;
// sets that SyncTables leaves to others are not looked into.
func (h *Handle) Differences(t kernel.Table) ([]kernel.Difference, error) {
	want, err := encode(t)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for range attempts {
		have, _, err := h.list(tableID{families[t.Family], t.Name}, want)
		if errors.Is(err, kernel.ErrStale) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return differences(have, want), nil
	}
	return nil, fmt.Errorf("compare table %s: other programs changed nftables during each of %d attempts: %w", t.Name, attempts, kernel.ErrStale)
}

// nothing is what the kernel has of something that is missing, and should have of something that is too much.
const nothing = "nothing"

func differences(have, want *image) []kernel.Difference {
	if !have.exists {
		return []kernel.Difference{{What: "table", Have: nothing, Want: count(len(want.chains), "chain") + " and " + count(len(want.sets), "set")}}
	}
	var out []kernel.Difference
	add := func(what, have, want string) {
		out = append(out, kernel.Difference{What: what, Have: have, Want: want})
	}
	if have.flags != want.flags {
		add("table", fmt.Sprintf("flags %#x", have.flags), fmt.Sprintf("flags %#x", want.flags))
	}
	for _, name := range allNames(have.chains, want.chains) {
		is, should := have.chains[name], want.chains[name]
		switch what := "chain " + name; {
		case is == nil || should == nil:
			add(what, is.text(), should.text())
		case !is.sameHook(should.chainSpec) || is.policy != should.policy:
			add(what, "another hook or policy", "its own")
		case !slices.EqualFunc(is.rules, should.rules, rule.equal):
			have := is.text()
			if len(is.rules) == len(should.rules) {
				have += ", other ones"
			}
			add(what, have, should.text())
		}
	}
	for _, name := range allNames(have.sets, want.sets) {
		is, should := have.sets[name], want.sets[name]
		switch what := "set " + name; {
		case is == nil || should == nil:
			add(what, is.text(), should.text())
		case !is.sameShape(should.setSpec):
			add(what, "other types or properties", "its own")
		case !should.foreign:
			extra, lacking := len(missing(is.elements, should.elements)), len(missing(should.elements, is.elements))
			if extra+lacking > 0 {
				add(what, fmt.Sprintf("%s, %d wrong", is.text(), extra), fmt.Sprintf("%s, %d missing", should.text(), lacking))
			}
		}
	}
	return out
}

// allNames returns the keys of both maps, sorted.
func allNames[T any](a, b map[string]T) []string {
	names := append(sorted(a), sorted(b)...)
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *chain) text() string {
	if c == nil {
		return nothing
	}
	return count(len(c.rules), "rule")
}

func (s *set) text() string {
	if s == nil {
		return nothing
	}
	return count(len(s.elements), "element")
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
