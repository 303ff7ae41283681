package policy

import (
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/store"
)

// count keeps the number of policies up to date.
func (e *Enforcer) count(c store.PolicyChanges) {
	if c.Reset {
		clear(e.policies)
	}
	note := func(name store.ObjectName, there bool) {
		if there {
			e.policies[name] = struct{}{}
		} else {
			delete(e.policies, name)
		}
	}
	for name, p := range c.Policies {
		note(name, p != nil)
	}
	for name, p := range c.ClusterPolicies {
		note(store.ObjectName{Name: name}, p != nil)
	}
}

// stats are the figures of what the kernel holds, and how many policies there are.
func (e *Enforcer) stats() (filter.Stats, int) {
	e.state.Lock()
	defer e.state.Unlock()
	if e.filter == nil {
		return filter.Stats{}, 0
	}
	return e.filter.Stats(), len(e.policies)
}
