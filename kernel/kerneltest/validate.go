package kerneltest

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/twill-cni/twill/kernel"
)

// validate refuses what the kernel refuses of a table: verdicts that lead to chains that are not there, or round and round, and sets that are
// not there or not of the kind that the expression needs.
func validate(t kernel.Table) error {
	v := validator{sets: map[string]kernel.Set{}, chains: map[string]kernel.Chain{}}
	for _, s := range t.Sets {
		v.sets[s.Name] = s
	}
	for _, c := range t.Chains {
		v.chains[c.Name] = c
	}
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			for _, x := range r.Exprs {
				if err := v.expr(x); err != nil {
					return fmt.Errorf("table %s: chain %s: rule %d: %w", t.Name, c.Name, i+1, err)
				}
			}
		}
	}
	for _, s := range t.Sets {
		for _, next := range verdicts(s) {
			if err := v.verdict(next); err != nil {
				return fmt.Errorf("table %s: set %s: %w", t.Name, s.Name, err)
			}
		}
	}
	for _, c := range t.Chains {
		if err := v.walk(c.Name, nil); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	return nil
}

type validator struct {
	sets   map[string]kernel.Set
	chains map[string]kernel.Chain
}

func (v validator) expr(x kernel.Expr) error {
	switch x := x.(type) {
	case kernel.Verdict:
		return v.verdict(x)
	case kernel.Lookup:
		return v.set(x.Set, func(s kernel.Set) bool { return len(s.Value) == 0 })
	case kernel.VerdictMap:
		return v.set(x.Map, func(s kernel.Set) bool { return slices.Equal(s.Value, []kernel.Type{kernel.TypeVerdict}) })
	case kernel.DNAT:
		return v.set(x.Map, func(s kernel.Set) bool { return len(s.Value) == 2 })
	case kernel.SetPriority:
		if x.Map == "" {
			return nil
		}
		return v.set(x.Map, func(s kernel.Set) bool { return width(s.Value) == 4 && s.Value[0] != kernel.TypeVerdict })
	case kernel.Update:
		return v.set(x.Set, func(s kernel.Set) bool {
			return s.Dynamic && (s.Timeout || x.Timeout == 0) && (len(s.Value) > 0) == (len(x.Value) > 0)
		})
	case kernel.Limit:
		if x.Rate == 0 || x.Burst == 0 {
			return fmt.Errorf("a limit of %d and %d: %w", x.Rate, x.Burst, syscall.EINVAL)
		}
	case kernel.Log:
		if len(x.Prefix) > maxLogPrefix {
			return fmt.Errorf("a log prefix of %d bytes: %w", len(x.Prefix), syscall.EINVAL)
		}
	case kernel.Delete:
		return v.set(x.Set, func(s kernel.Set) bool { return s.Dynamic && (len(s.Value) > 0) == (len(x.Value) > 0) })
	}
	return nil
}

func (v validator) set(name string, fits func(kernel.Set) bool) error {
	s, ok := v.sets[name]
	if !ok {
		return fmt.Errorf("set %s: %w", name, syscall.ENOENT)
	}
	if !fits(s) {
		return fmt.Errorf("set %s is of another kind: %w", name, syscall.EINVAL)
	}
	return nil
}

func (v validator) verdict(next kernel.Verdict) error {
	if next.Kind != kernel.Jump && next.Kind != kernel.Goto {
		return nil
	}
	c, ok := v.chains[next.Chain]
	if !ok {
		return fmt.Errorf("chain %s: %w", next.Chain, syscall.ENOENT)
	}
	if c.Hook != nil {
		return fmt.Errorf("chain %s is a base chain: %w", next.Chain, syscall.EOPNOTSUPP)
	}
	return nil
}

// maxLogPrefix is the kernel's NF_LOG_PREFIXLEN less the NUL.
const maxLogPrefix = 127

// maxJumps is the kernel's NFT_JUMP_STACK_SIZE.
const maxJumps = 16

// walk follows the ways from a chain; path is what led there.
func (v validator) walk(name string, path []string) error {
	if slices.Contains(path, name) {
		return fmt.Errorf("chain %s leads to itself: %w", name, syscall.ELOOP)
	}
	if len(path) > maxJumps {
		return fmt.Errorf("chain %s is more than %d jumps away: %w", name, maxJumps, syscall.EMLINK)
	}
	path = append(path[:len(path):len(path)], name)
	for _, r := range v.chains[name].Rules {
		for _, x := range r.Exprs {
			var ways []kernel.Verdict
			switch x := x.(type) {
			case kernel.Verdict:
				ways = []kernel.Verdict{x}
			case kernel.VerdictMap:
				ways = verdicts(v.sets[x.Map])
			}
			for _, way := range ways {
				if way.Chain == "" {
					continue
				}
				if err := v.walk(way.Chain, path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// verdicts returns what a verdict map holds.
func verdicts(s kernel.Set) []kernel.Verdict {
	var out []kernel.Verdict
	for _, e := range s.Elements {
		for _, d := range e.Value {
			if d.Verdict != nil {
				out = append(out, *d.Verdict)
			}
		}
	}
	return out
}
