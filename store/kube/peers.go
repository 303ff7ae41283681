package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
)

// spacing is the time between two snapshots, at the least; see store/etcd's feed.
const spacing = 5 * time.Millisecond

// Watch implements store.Store. A Node without flannel's annotations has no lease: it is not ready yet, or somebody else's. Of two nodes with the
// same subnets the older one has the lease, the other is rejected. A lease goes at once when its Node is deleted; one that a list lacks, or whose
// Node was made anew without annotations, holds on for Config.Holdover, since its node may be alive and publish it again. A snapshot's
// Revision counts snapshots.
func (c *Client) Watch(ctx context.Context, emit func(store.Snapshot)) error {
	f, ok := c.nodes.follow("")
	if !ok {
		return errClosed
	}
	defer f.close()
	p := newPeers(c)
	defer p.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return errClosed
		case <-p.timer.C:
			p.expire(time.Now())
			p.publish(emit)
			continue
		case <-f.wake:
		}
		changed, ok := f.take()
		if !ok {
			continue
		}
		for name, n := range changed {
			p.change(name, n)
		}
		p.publish(emit)
		select {
		case <-ctx.Done():
		case <-time.After(spacing):
		}
	}
}

// peers turn nodes into snapshots. They belong to one goroutine.
type peers struct {
	client  *Client
	claims  map[string]*claim          // by node
	holders map[store.Subnets][]*claim // who claims these subnets, mostly one
	faults  map[string]error           // by node: why its record cannot be read
	dirty   map[store.Subnets]struct{} // whose holder may be another one
	losers  map[string]error           // by node: who has its subnets
	leases  []*store.Lease
	emitted store.Snapshot
	own     *registration // that overlaps was computed for
	overlap map[string]*claim
	held    map[string]time.Time // by node: until when its lease holds on although its Node does not bear it any more
	timer   *time.Timer          // of the first of them
}

// claim is a node's lease, whether or not it has the subnets.
type claim struct {
	name    string
	lease   *store.Lease
	created time.Time
	missing bool // it may be gone
}

// before reports whether a has the subnets and not b: a node that is there before one that is missing, then the older one.
func (a *claim) before(b *claim) bool {
	switch {
	case a.missing != b.missing:
		return b.missing
	case !a.created.Equal(b.created):
		return a.created.Before(b.created)
	}
	return a.name < b.name
}

func newPeers(c *Client) *peers {
	return &peers{
		client: c, claims: map[string]*claim{}, holders: map[store.Subnets][]*claim{}, faults: map[string]error{},
		dirty: map[store.Subnets]struct{}{}, losers: map[string]error{}, overlap: map[string]*claim{},
		held: map[string]time.Time{}, timer: time.NewTimer(never),
	}
}

// never is the time of a timer that nothing waits for.
const never = 24 * time.Hour

// hold keeps the lease of a Node that does not bear it any more.
func (p *peers) hold(name string) {
	if _, ok := p.held[name]; !ok {
		p.held[name] = time.Now().Add(p.client.cfg.Holdover)
		if len(p.held) == 1 {
			p.timer.Reset(p.client.cfg.Holdover)
		}
	}
}

// expire drops the leases that were held for long enough.
func (p *peers) expire(now time.Time) {
	next := now.Add(never)
	for name, until := range p.held {
		if until.After(now) {
			if until.Before(next) {
				next = until
			}
			continue
		}
		delete(p.held, name)
		if c := p.claims[name]; c != nil {
			p.drop(c)
		}
		p.meet(name, nil)
	}
	p.timer.Reset(next.Sub(now))
}

// change takes in what is known of a node now; nil when it is gone. A node whose record cannot be read keeps its last good lease.
func (p *peers) change(name string, n *corev1.Node) {
	old := p.claims[name]
	delete(p.faults, name)
	var now *claim
	held := false
	if n != nil {
		l, err := p.client.lease(n)
		switch {
		case err == nil && l == nil && old != nil:
			if s, err := p.client.subnets(n); err == nil && s == old.lease.Subnets() {
				l, held = old.lease, true
			}
		case err != nil:
			p.faults[name] = err
			if old != nil {
				l = old.lease
			}
		case l != nil && old != nil && old.lease.Equal(l):
			l = old.lease
		}
		if l != nil {
			now = &claim{name, l, n.CreationTimestamp.Time, held || p.client.nodes.isMissing(name)}
		}
	}
	if held {
		p.hold(name)
	} else {
		delete(p.held, name)
	}
	if old != nil {
		p.drop(old)
	}
	if now != nil {
		p.claims[name] = now
		s := now.lease.Subnets()
		p.holders[s] = append(p.holders[s], now)
		p.dirty[s] = struct{}{}
	}
	p.meet(name, now)
}

func (p *peers) drop(c *claim) {
	s := c.lease.Subnets()
	p.holders[s] = slices.DeleteFunc(p.holders[s], func(o *claim) bool { return o == c })
	if len(p.holders[s]) == 0 {
		delete(p.holders, s)
	}
	delete(p.claims, c.name)
	delete(p.losers, c.name)
	p.dirty[s] = struct{}{}
}

// meet notes whether another node's subnets overlap with those of this one.
func (p *peers) meet(name string, c *claim) {
	delete(p.overlap, name)
	if c != nil && p.own != nil && name != p.own.name && c.lease.Subnets().Overlaps(p.own.subnets) {
		p.overlap[name] = c
	}
}

// settle decides who has the subnets that changed hands.
func (p *peers) settle() {
	var changes []store.Change
	for s := range p.dirty {
		holders := p.holders[s]
		if len(holders) == 0 {
			changes = append(changes, store.Change{Subnets: s})
			continue
		}
		first := slices.MinFunc(holders, func(a, b *claim) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		for _, c := range holders {
			delete(p.losers, c.name)
			if c != first {
				p.losers[c.name] = fmt.Errorf("its pod subnets %s are those of Node %s, which is older", s, first.name)
			}
		}
		changes = append(changes, store.Change{Subnets: s, Lease: first.lease})
	}
	clear(p.dirty)
	p.leases = store.Merge(p.leases, changes)
}

// publish emits a snapshot when that differs from the last one, and tells this node's registration of overlaps.
func (p *peers) publish(emit func(store.Snapshot)) {
	p.settle()
	p.judge()
	faults := maps.Clone(p.losers)
	maps.Copy(faults, p.faults)
	rejected := make([]store.Reject, 0, len(faults))
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		rejected = append(rejected, store.Reject{Key: name, Err: fmt.Errorf("record of Node %s: %w", name, faults[name])})
	}
	last := p.emitted
	if last.Revision != 0 && slices.Equal(last.Leases, p.leases) && slices.EqualFunc(last.Rejected, rejected, sameReject) {
		return
	}
	p.emitted = store.Snapshot{Leases: p.leases, Revision: last.Revision + 1, Rejected: rejected}
	emit(p.emitted)
}

func sameReject(a, b store.Reject) bool { return a.Key == b.Key && a.Err.Error() == b.Err.Error() }

// judge tells this node's registration whether an older node has some of its subnets.
func (p *peers) judge() {
	own := p.client.registered()
	if own != p.own {
		p.own = own
		for name, c := range p.claims {
			p.meet(name, c)
		}
	}
	if own == nil {
		return
	}
	self := p.claims[own.name]
	var err error
	for _, name := range slices.Sorted(maps.Keys(p.overlap)) {
		c := p.overlap[name]
		if self != nil && c.before(self) {
			err = &store.Trouble{Reason: store.ReasonPodCIDROverlap, Err: fmt.Errorf("the pod subnets of this Node, %s, overlap with those of Node %s, %s, which is older: "+
				"one controller alone may give out podCIDRs; delete this Node and register it again once that is so", own.subnets, name, c.lease.Subnets())}
			break
		}
	}
	own.setOverlap(err)
}
