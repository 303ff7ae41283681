package dnat

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Table is the proxy's table of one family: it knows what the kernel should hold, and says what is to be written when Services change. It is used by
// one goroutine at a time. Frontends of the other family are left out, so both tables are told of the same Services. No two Services may have
// the same frontend; service.Claims sees to it.
//
// What is returned is to be written in this order, so that no packet meets half a change:
//
//	Update.Skeleton   SyncTables with Skeleton(): the chains of new plans
//	Update.Elements   ChangeElements: the elements that lead there, in one transaction, or in those that Split makes
//	Prune             some time later, when all elements have been written: SyncTables without the chains that nothing leads to
//
// When something could not be written, or somebody else changed the table, Compare makes it good.
type Table struct {
	words      words
	assigner   assigner
	services   map[store.ObjectName]*held
	plans      map[Plan]*plan
	numbers    map[uint32]*plan
	guards     map[service.FrontendKey]*guard
	hairpins   tally
	clusterIPs tally

	skeleton *kernel.Table // nil when something changed since it was made
	changed  bool
}

// held is a Service and what the kernel holds of it.
type held struct {
	service   *service.Service
	frontends []frontend // those of this family, in the Service's order
}

// frontend is what the kernel holds of a frontend.
type frontend struct {
	key                service.FrontendKey
	plan, inside       *plan // inside is nil when clients inside of the cluster are no different
	slots, insideSlots slots
}

// side returns the slots for clients inside of the cluster or for the others, and whether those have affinity.
func (f *frontend) side(inside bool) (slots, bool) {
	if inside {
		return f.insideSlots, f.inside != nil && f.inside.Sticky > 0
	}
	return f.slots, f.plan != nil && f.plan.Sticky > 0
}

// plan is a plan in use, or one that was.
type plan struct {
	Plan
	name   string
	number uint32
	value  string // the number as the kernel keeps it
	users  int    // frontends
}

func (p *plan) text() string {
	if p == nil {
		return ""
	}
	return p.value
}

// guard is who may use a frontend.
type guard struct {
	allowed []netip.Prefix
	users   int // 1, or for a moment 2 when the frontend moves from one Service to another; 0 until Prune
}

// Update is what is to be written.
type Update struct {
	Skeleton bool // Skeleton() is another one than before
	Elements []kernel.SetChange
}

// Change is what became of a Service. A nil Service: it is gone.
type Change struct {
	Name    store.ObjectName
	Service *service.Service
}

// New returns a table without Services.
func New(c Config) *Table {
	return &Table{words: c.words(), assigner: assigner{v6: c.v6()}, services: map[store.ObjectName]*held{}, plans: map[Plan]*plan{},
		numbers: map[uint32]*plan{}, guards: map[service.FrontendKey]*guard{}}
}

// Reset makes the table hold these Services and no others, and returns what turns the kernel's content into that. Endpoints keep the slots that
// they have in the kernel, so that a restart writes nothing. The listing is used up.
func (t *Table) Reset(all []*service.Service, l *Listing) Update {
	fresh := New(t.words.Config)
	fresh.plans, fresh.numbers, fresh.guards = t.plans, t.numbers, t.guards
	fresh.changed = true
	for _, p := range fresh.plans {
		p.users = 0
	}
	for _, g := range fresh.guards {
		g.users = 0
	}
	*t = *fresh
	e := &edit{v6: t.words.v6(), listing: l}
	for _, s := range all {
		t.replace(e, Change{s.Name, s})
	}
	return t.finish(e)
}

// Set changes some Services.
func (t *Table) Set(changes []Change) Update {
	e := &edit{v6: t.words.v6()}
	for _, c := range changes {
		t.replace(e, c)
	}
	return t.finish(e)
}

// Compare returns what turns the kernel's content into what it should be: nothing, unless a change could not be written or somebody else
// made one. The listing is used up.
func (t *Table) Compare(l *Listing) []kernel.SetChange {
	e := &edit{v6: t.words.v6(), listing: l}
	for _, h := range t.services {
		for i := range h.frontends {
			e.frontend(nil, &h.frontends[i])
		}
	}
	t.hairpins.write(e, hairpins, 2)
	t.clusterIPs.write(e, clusterIPs, 1)
	l.rest(e)
	return e.changes()
}

// Prune forgets plans that no frontend has any more, and reports whether Skeleton is another one for it. It may be called only when all that Set and
// Reset returned is in the kernel. A plan that is wanted again costs a change of the skeleton, so there is no hurry.
func (t *Table) Prune() bool {
	plans, guards := len(t.plans), len(t.guards)
	maps.DeleteFunc(t.plans, func(_ Plan, p *plan) bool { return p.users == 0 })
	maps.DeleteFunc(t.numbers, func(_ uint32, p *plan) bool { return p.users == 0 })
	maps.DeleteFunc(t.guards, func(_ service.FrontendKey, g *guard) bool { return g.users == 0 })
	if len(t.plans) == plans && len(t.guards) == guards {
		return false
	}
	t.skeleton = nil
	return true
}

// Skeleton returns the table without the content of its Bulk sets. It is not to be changed.
func (t *Table) Skeleton() kernel.Table {
	if t.skeleton == nil {
		plans := make([]NumberedPlan, 0, len(t.plans))
		for _, p := range slices.SortedFunc(maps.Values(t.plans), func(x, y *plan) int { return strings.Compare(x.name, y.name) }) {
			plans = append(plans, NumberedPlan{p.number, p.Plan})
		}
		made := Skeleton(t.words.Config, plans, t.ranges())
		t.skeleton = &made
	}
	return *t.skeleton
}

func (t *Table) ranges() []kernel.Element {
	var out []kernel.Element
	for _, k := range slices.SortedFunc(maps.Keys(t.guards), compareKeys) {
		for _, p := range t.guards[k].allowed {
			out = append(out, kernel.Element{Key: []kernel.Datum{{Addr: k.Addr}, {Number: uint32(k.Protocol)}, {Number: uint32(k.Port)}, {Prefix: p}}})
		}
	}
	return out
}

// finish returns what was collected.
func (t *Table) finish(e *edit) Update {
	t.hairpins.settle(e, hairpins, 2)
	t.clusterIPs.settle(e, clusterIPs, 1)
	if e.listing != nil {
		e.listing.rest(e)
	}
	u := Update{Skeleton: t.changed, Elements: e.changes()}
	if t.changed {
		t.skeleton, t.changed = nil, false
	}
	return u
}
