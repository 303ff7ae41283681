package dnat

import (
	"cmp"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

// replace puts a Service in the place of the one that was there, and adds the difference to e.
func (t *Table) replace(e *edit, c Change) {
	old := t.services[c.Name]
	if old == nil {
		old = &held{service: &service.Service{}}
	}
	if c.Service == old.service {
		return
	}
	now := &held{service: &service.Service{}}
	if c.Service != nil {
		now.service = c.Service
		t.render(now, old, e.listing)
	}
	before := finder{frontends: old.frontends}
	for i := range now.frontends {
		f := &now.frontends[i]
		e.frontend(before.find(f.key, i), f)
		t.use(f, now.service, 1)
	}
	after := finder{frontends: now.frontends}
	for i := range old.frontends {
		f := &old.frontends[i]
		if after.find(f.key, i) == nil {
			e.frontend(f, nil)
		}
		t.use(f, old.service, -1)
	}
	t.count(now.service, 1)
	t.count(old.service, -1)
	if c.Service == nil {
		delete(t.services, c.Name)
	} else {
		t.services[c.Name] = now
	}
}

// use counts who uses plans.
func (t *Table) use(f *frontend, s *service.Service, by int) {
	for _, p := range [...]*plan{f.plan, f.inside} {
		if p != nil {
			p.users += by
		}
	}
	if g := t.guards[f.key]; f.plan.Guarded && g != nil {
		g.users += by
	}
}

// render fills in what the kernel should hold of now.service. Slots stay as they are in old, or else in the kernel by the listing.
func (t *Table) render(now, old *held, l *Listing) {
	before := finder{frontends: old.frontends}
	var made []assigned
	now.frontends = make([]frontend, 0, len(now.service.Frontends))
	for i := range now.service.Frontends {
		f := &now.service.Frontends[i]
		if f.Addr.Is6() != t.words.v6() {
			continue
		}
		r := frontend{key: f.FrontendKey}
		was := before.find(f.FrontendKey, len(now.frontends))
		r.slots, made = t.assign(made, assigned{endpoints: f.Endpoints, scheduler: f.Scheduler, old: previous(was, f.FrontendKey, l, false)})
		if f.Inside != nil {
			r.insideSlots, made = t.assign(made, assigned{endpoints: f.Inside.Endpoints, scheduler: f.Scheduler, old: previous(was, f.FrontendKey, l, true)})
		}
		w := width(t.words.v6())
		main, inside := plansOf(f, uint32(len(r.slots)/w), uint32(len(r.insideSlots)/w), t.words.MasqueradeAll)
		if main.Slots == 0 {
			r.slots = ""
		}
		if main.Split {
			r.inside = t.planFor(inside)
		} else {
			r.insideSlots = ""
		}
		r.plan = t.planFor(main)
		if main.Guarded {
			t.guard(f)
		}
		now.frontends = append(now.frontends, r)
	}
}

// previous returns the slots that a frontend has.
func previous(was *frontend, k service.FrontendKey, l *Listing, inside bool) slots {
	switch {
	case was != nil:
		s, _ := was.side(inside)
		return s
	case l != nil:
		return l.slots(k, inside)
	}
	return ""
}

// assigned is a list of endpoints that got slots.
type assigned struct {
	endpoints  []service.Endpoint
	scheduler  service.Scheduler
	old, slots slots
}

// assign returns slots for a list. Frontends of one Service that share a list share the slots, unless they had different ones already.
func (t *Table) assign(made []assigned, want assigned) (slots, []assigned) {
	if len(want.endpoints) == 0 {
		return "", made
	}
	for _, m := range made {
		if same(m.endpoints, want.endpoints) && m.scheduler == want.scheduler && (want.old == "" || want.old == m.old || want.old == m.slots) {
			return m.slots, made
		}
	}
	want.slots = t.assigner.assign(want.old, want.scheduler, want.endpoints)
	return want.slots, append(made, want)
}

// planFor returns the plan with its number, a new one if need be.
func (t *Table) planFor(p Plan) *plan {
	if known := t.plans[p]; known != nil {
		return known
	}
	// The number comes from the name, so that it is the same whatever came first; 0 is nothing, and the greatest one is special to tc.
	n := uint32(kernel.StableHash(0, p.String())) & numberMax
	for n == 0 || t.numbers[n] != nil {
		n = (n + 1) & numberMax
	}
	return t.number(p, n)
}

func (t *Table) number(p Plan, n uint32) *plan {
	made := &plan{Plan: p, name: p.String(), number: n, value: string(kernel.AppendNumber(nil, n))}
	t.plans[p], t.numbers[n] = made, made
	t.changed = true
	return made
}

// guard sets who may use a frontend.
func (t *Table) guard(f *service.Frontend) {
	g := t.guards[f.FrontendKey]
	if g == nil {
		g = &guard{}
		t.guards[f.FrontendKey] = g
	}
	if allowed := disjoint(f.Allowed, t.words.v6()); !slices.Equal(allowed, g.allowed) {
		g.allowed = allowed
		t.changed = true
	}
}

// finder finds frontends by key, fast when they are where they were before.
type finder struct {
	frontends []frontend
	index     map[service.FrontendKey]int
}

func (s *finder) find(k service.FrontendKey, guess int) *frontend {
	switch {
	case guess < len(s.frontends) && s.frontends[guess].key == k:
		return &s.frontends[guess]
	case len(s.frontends) <= few:
		if i := slices.IndexFunc(s.frontends, func(f frontend) bool { return f.key == k }); i >= 0 {
			return &s.frontends[i]
		}
		return nil
	case s.index == nil:
		s.index = make(map[service.FrontendKey]int, len(s.frontends))
		for i := range s.frontends {
			s.index[s.frontends[i].key] = i
		}
	}
	if i, ok := s.index[k]; ok {
		return &s.frontends[i]
	}
	return nil
}

func compareKeys(x, y service.FrontendKey) int {
	return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Port, y.Port))
}
