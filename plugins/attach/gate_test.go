package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// daemon is what the daemon knows and does about policies, and the part of the kernel that it writes.
type daemon struct {
	absent bool // there are no policies on the node
	asking map[kernel.PodOwner]bool
	closed map[netip.Addr]bool // nothing that another pod left opens the address
	queued map[netip.Addr]bool // packets that were let through wait for the address
	ready  map[kernel.PodOwner]bool
}

func newDaemon() daemon {
	return daemon{asking: map[kernel.PodOwner]bool{}, closed: map[netip.Addr]bool{}, queued: map[netip.Addr]bool{}, ready: map[kernel.PodOwner]bool{}}
}

// mayUp is called when a pod's link is about to let packets pass.
func (n *node) mayUp(owner kernel.PodOwner) {
	for _, a := range n.records[owner].Addresses {
		if !n.absent && (!n.closed[a.Addr()] || n.queued[a.Addr()]) {
			n.t.Errorf("the link of %s was set up while what another pod left may open %s, or packets wait for it", owner, a)
		}
	}
}

// forget: the addresses are free, and what the kernel holds of them may be the pod's that goes.
func (n *node) forget(owner kernel.PodOwner) {
	for _, a := range n.leases[owner].Addresses {
		delete(n.closed, a.Prefix.Addr())
	}
	delete(n.ready, owner)
}

type gate struct{ *node }

func (n gate) Ask(r Record) Answer {
	if have := n.records[r.Owner()]; len(r.Addresses) == 0 || !slices.Equal(have.Addresses, r.Addresses) {
		n.t.Errorf("the daemon is asked about addresses %s, and would find %s in the record", r.Addresses, have.Addresses)
	}
	n.asking[r.Owner()] = true
	return &asked{n.node, r}
}

type asked struct {
	*node
	record Record
}

func (a *asked) Closed(context.Context) error {
	err := a.does("closed", func() error {
		for _, addr := range a.record.Addresses {
			a.closed[addr.Addr()] = true
			a.queued[addr.Addr()] = true // they came until now
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotClosed, err)
	}
	return err
}

func (a *asked) Ready(context.Context) {
	a.ready[a.record.Owner()] = true
}

func (a *asked) Close() {
	owner := a.record.Owner()
	delete(a.asking, owner)
	_, there := a.records[owner]
	if there && !a.complete[owner] && a.fail == 0 && a.failAt == "" && a.kill == 0 {
		a.t.Errorf("the daemon hears of the end of the ADD of %s while its record is not complete", owner)
	}
}

func TestAddAsksTheDaemon(t *testing.T) {
	n := newNode(t, "/ns/a")
	req := plain("a", "/ns/a")
	if _, err := n.plugin().Add(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if !n.ready[req.Owner] || len(n.closed) != 2 {
		t.Errorf("the pod has policies: %t; closed before were %v", n.ready[req.Owner], n.closed)
	}
	if len(n.asking) > 0 {
		t.Errorf("at the end, the daemon is still asked by %v", n.asking)
	}
}

// A pod whose addresses may be open to what was another's must not come up, and nothing of it stays.
func TestAddThatCannotBeClosed(t *testing.T) {
	n := newNode(t, "/ns/a")
	n.failAt = "closed"
	req := request("a", "/ns/a")
	if _, err := n.plugin().Add(t.Context(), req); !errors.Is(err, ErrNotClosed) || !errors.Is(err, errInjected) {
		t.Errorf("have error %v, want ErrNotClosed and its cause", err)
	}
	if left := n.left(); left != nil || len(n.asking) > 0 {
		t.Errorf("left behind: %v; still asking: %v", left, n.asking)
	}
}

func TestAddWithoutPolicies(t *testing.T) {
	n := newNode(t, "/ns/a")
	n.absent = true
	p := n.plugin()
	p.Gate = nil
	if _, err := p.Add(t.Context(), request("a", "/ns/a")); err != nil {
		t.Fatal(err)
	}
	if err := p.Del(t.Context(), request("a", "")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string(nil), n.left()); diff != "" {
		t.Error(diff)
	}
}

// An address that goes from one pod to the next is closed in between, also when an ADD is killed at any step.
func TestAddressReuseIsClosed(t *testing.T) {
	for kill := range stepsOfAdd(t) + 1 {
		n := newNode(t, "/ns/a", "/ns/b")
		n.kill = kill
		n.killed(func() { _, _ = n.plugin().Add(t.Context(), request("a", "/ns/a")) })
		n.kill = 0
		if err := n.plugin().Del(t.Context(), request("a", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := n.plugin().Add(t.Context(), request("b", "/ns/b")); err != nil { // mayUp looks
			t.Fatal(err)
		}
	}
}
