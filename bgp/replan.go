package bgp

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// planned is what the plan was last made from, and what of it concerns the kernel.
type planned struct {
	setup       *Setup
	uplink      kernel.Uplink
	self        *store.Lease
	leases      []*store.Lease
	established map[netip.Addr]bool // and synced
	services    []ServiceAddress

	rejects    []store.Reject
	blackholed []netip.Prefix
	translated []netip.Prefix
	summaries  *kernel.Fragment // of blackholed; nil for nothing
}

// replan makes the plan again when something that it follows from has changed, or when its time has come.
func (b *Backend) replan(uplink kernel.Uplink, self *store.Lease, leases []*store.Lease) []store.Reject {
	b.mu.Lock()
	services := b.services
	b.mu.Unlock()
	uplink.Routes = nil // no session follows from them, and they may change often
	sessions := b.opts.Speaker.Standing()
	now := planned{setup: b.setup.Load(), uplink: uplink, self: self, leases: leases, services: services, established: map[netip.Addr]bool{}}
	for _, s := range sessions {
		if s.Established() || s.Restarted {
			now.established[s.Address] = s.Established() && s.EndOfRIB
		}
	}
	if !b.overdue.Swap(false) && b.planned.same(now) {
		return b.planned.rejects
	}
	plan := now.setup.Planner.Plan(PlanInput{Uplink: uplink, Self: self, Leases: leases, Sessions: sessions, Services: services})
	plan.Instance.Restarting = b.opts.Restarting && !b.opts.Speaker.Settled()
	now.rejects = plan.Rejects
	for _, a := range plan.Instance.Announcements {
		if a.Translated {
			now.translated = append(now.translated, a.Prefix)
		}
	}
	b.leftOut.Store(&plan.Rejects)
	now.blackholed, now.summaries = blackholed(plan.Instance.Announcements, uplink), b.planned.summaries
	if !slices.Equal(now.blackholed, b.planned.blackholed) {
		now.summaries = summaries(now.blackholed)
	}
	b.planned = now
	b.wakeAfter(plan.Again)
	b.mu.Lock()
	b.plan = &plan.Instance
	b.publish = cmp.Or(plan.Publish, b.publish)
	b.mu.Unlock()
	select {
	case b.due <- struct{}{}:
	default:
	}
	if plan.Publish != nil {
		b.tell() // the next sync publishes
	}
	return plan.Rejects
}

// wakeAfter has the plan made again after d.
func (b *Backend) wakeAfter(d time.Duration) {
	if b.again != nil {
		b.again.Stop()
		b.again = nil
	}
	if d > 0 {
		b.again = time.AfterFunc(d, func() {
			b.overdue.Store(true)
			b.tell()
		})
	}
}

// same compares leases and services by identity: both are never changed after they were made.
func (p planned) same(o planned) bool {
	return p.setup == o.setup && p.self == o.self && p.uplink.Equal(o.uplink) && identical(p.leases, o.leases) &&
		identical(p.services, o.services) && maps.Equal(p.established, o.established)
}

func identical[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }
