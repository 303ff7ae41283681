package service

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Change is what became of a Service's meaning. Old is nil when it had none, New when it has none any more; never both.
type Change struct{ Old, New *Service }

// Name returns the name of the Service.
func (c Change) Name() store.ObjectName {
	if c.New != nil {
		return c.New.Name
	}
	return c.Old.Name
}

// Claims gives each frontend to one of the Services that claim it. What the cluster itself hands out, ClusterIPs and node ports, goes before
// external addresses, which anybody may write into a Service (CVE-2020-8554); then the older Service, then the smaller name. The others
// are without that frontend and get a warning, until the winner goes.
//
// The outcome depends on the claims that stand, not on the order in which they came. Claims is not safe for concurrent use.
type Claims struct {
	services  map[store.ObjectName]*claimant
	sole      map[FrontendKey]*claimant   // frontends that one Service claims
	contested map[FrontendKey][]*claimant // frontends that several claim, the winner first
	dirty     []*claimant                 // who may have something else than before; only during Apply
}

// A claimant is a Service that claims frontends: all that it resolved to, and what it has of them.
type claimant struct {
	claimed, effective *Service
	dirty              bool // it is in Claims.dirty
}

// NewClaims returns Claims without a Service.
func NewClaims() *Claims {
	return &Claims{
		services:  map[store.ObjectName]*claimant{},
		sole:      map[FrontendKey]*claimant{},
		contested: map[FrontendKey][]*claimant{},
	}
}

// Apply takes changes of what Services claim, the last one of a Service counts, and returns the changes of what they have, sorted by name:
// those of the Services themselves and of others that lose or get a frontend by it. Old of each change is ignored. The cost is that of the
// changed Services, and of those that lose or get something.
func (c *Claims) Apply(changes []Change) []Change {
	if len(c.services) == 0 { // grow once
		c.services = make(map[store.ObjectName]*claimant, len(changes))
		c.sole = make(map[FrontendKey]*claimant, len(changes))
	}
	for _, ch := range changes {
		name := ch.Name()
		s := c.services[name]
		if s == nil {
			if ch.New == nil {
				continue
			}
			s = &claimant{}
			c.services[name] = s
		}
		c.mark(s)
		c.replace(s, ch.New)
	}
	out := make([]Change, 0, len(c.dirty))
	for _, s := range c.dirty {
		s.dirty = false
		ch := Change{Old: s.effective, New: c.effective(s)}
		if !ch.New.Equal(ch.Old) {
			s.effective = ch.New
			out = append(out, ch)
		}
	}
	c.dirty = nil
	for _, ch := range changes {
		if s := c.services[ch.Name()]; s != nil && s.claimed == nil {
			delete(c.services, ch.Name())
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return a.Name().Compare(b.Name()) })
	return out
}

// All returns what all Services have, sorted by name.
func (c *Claims) All() []*Service {
	all := make([]*Service, 0, len(c.services))
	for s := range maps.Values(c.services) {
		all = append(all, s.effective)
	}
	slices.SortFunc(all, func(a, b *Service) int { return a.Name.Compare(b.Name) })
	return all
}

// Get returns what the Service has; nil when it is not there.
func (c *Claims) Get(name store.ObjectName) *Service {
	if s := c.services[name]; s != nil {
		return s.effective
	}
	return nil
}

// replace makes now what s claims, and marks everybody whom that can concern. Frontends that are claimed as before are not
// touched: a change of endpoints alone moves nothing.
func (c *Claims) replace(s *claimant, now *Service) {
	was := s.claimed
	keep := was != nil && now != nil && was.Created.Equal(now.Created)
	var left, right []Frontend
	if was != nil {
		left = was.Frontends
	}
	if now != nil {
		right = now.Frontends
	}
	var gone, come []FrontendKey
	for len(left) > 0 || len(right) > 0 {
		order := 0
		switch {
		case len(right) == 0:
			order = -1
		case len(left) == 0:
			order = 1
		default:
			order = left[0].FrontendKey.Compare(right[0].FrontendKey)
		}
		if order != 0 || !keep || given(left[0].Kind) != given(right[0].Kind) {
			if order <= 0 {
				gone = append(gone, left[0].FrontendKey)
			}
			if order >= 0 {
				come = append(come, right[0].FrontendKey)
			}
		}
		if order <= 0 {
			left = left[1:]
		}
		if order >= 0 {
			right = right[1:]
		}
	}
	for _, k := range gone {
		c.release(k, s)
	}
	s.claimed = now
	for _, k := range come {
		c.claim(k, s)
	}
}

func (c *Claims) claim(k FrontendKey, s *claimant) {
	rivals := c.contested[k]
	if rivals == nil {
		other := c.sole[k]
		if other == nil {
			c.sole[k] = s
			return
		}
		delete(c.sole, k)
		rivals = []*claimant{other}
	}
	at, _ := slices.BinarySearchFunc(rivals, s, func(a, b *claimant) int { return compareClaims(k, a.claimed, b.claimed) })
	rivals = slices.Insert(rivals, at, s)
	c.contested[k] = rivals
	if at == 0 { // the others lose it, or lose it to somebody else
		c.mark(rivals...)
	}
}

func (c *Claims) release(k FrontendKey, s *claimant) {
	rivals := c.contested[k]
	if rivals == nil {
		delete(c.sole, k)
		return
	}
	won := rivals[0] == s
	rivals = slices.DeleteFunc(rivals, func(r *claimant) bool { return r == s })
	if won {
		c.mark(rivals...)
	}
	if len(rivals) > 1 {
		c.contested[k] = rivals
		return
	}
	delete(c.contested, k)
	c.sole[k] = rivals[0]
}

func (c *Claims) mark(all ...*claimant) {
	for _, s := range all {
		if !s.dirty {
			s.dirty = true
			c.dirty = append(c.dirty, s)
		}
	}
}

// given reports whether the cluster itself hands out frontends of that kind, each to one Service alone.
func given(k Kind) bool { return k == ClusterIP || k == NodePort }

// compareClaims orders two Services that claim k, the winner first.
func compareClaims(k FrontendKey, a, b *Service) int {
	return cmp.Or(
		falseFirst(!given(a.frontend(k).Kind), !given(b.frontend(k).Kind)),
		a.Created.Compare(b.Created),
		a.Name.Compare(b.Name),
	)
}

// frontend returns the frontend that has the key; there is one.
func (s *Service) frontend(k FrontendKey) *Frontend {
	at, _ := slices.BinarySearchFunc(s.Frontends, k, func(f Frontend, k FrontendKey) int { return f.FrontendKey.Compare(k) })
	return &s.Frontends[at]
}

// effective returns what s has of what it claims: the very Service that it resolved to, unless it loses something.
func (c *Claims) effective(s *claimant) *Service {
	claimed := s.claimed
	if claimed == nil || len(c.contested) == 0 {
		return claimed
	}
	var now *Service
	for i := range claimed.Frontends {
		f := &claimed.Frontends[i]
		rivals := c.contested[f.FrontendKey]
		lost := len(rivals) > 0 && rivals[0] != s
		if lost && now == nil {
			clone := *claimed
			now = &clone
			now.Frontends, now.Warnings = slices.Clone(claimed.Frontends[:i]), slices.Clone(claimed.Warnings)
		}
		switch {
		case lost:
			now.Warnings = append(now.Warnings, lostTo(f, claimed, rivals[0].claimed))
		case now != nil:
			now.Frontends = append(now.Frontends, *f)
		}
	}
	if now == nil {
		return claimed
	}
	now.Addrs = slices.DeleteFunc(slices.Clone(now.Addrs), func(a Address) bool {
		return !slices.ContainsFunc(now.Frontends, func(f Frontend) bool { return f.Addr == a.Addr })
	})
	return now
}

func lostTo(f *Frontend, loser, winner *Service) string {
	why := "whose name comes first"
	switch {
	case !given(f.Kind) && given(winner.frontend(f.FrontendKey).Kind):
		why = "to which the cluster gave it"
	case winner.Created.Before(loser.Created):
		why = "which is older"
	}
	return fmt.Sprintf("does not answer at %s: it is taken by Service %s, %s", f.FrontendKey, winner.Name, why)
}
