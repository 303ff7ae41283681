package policy

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// waiter is an ADD of the CNI plugin that wants to know how far the kernel is with its pod.
type waiter struct {
	owner kernel.PodOwner
	tell  chan gate.State // of capacity 2: each state is told once

	// What follows is guarded by Enforcer.state.
	seen   bool   // records were looked at since it came
	clean  bool   // nobody else has connections with its addresses
	cut    uint64 // the look at connections that has to end before that is so; 0: not asked for
	closed bool
	ready  bool
}

// Answer is what the CNI plugin's ADD is told, see gate.Serve. StateClosed is told when the kernel has the pod's addresses from nobody else any more,
// and all connections that somebody else had with them have been looked at; StateReady when the pod's policies are in the kernel.
func (e *Enforcer) Answer(ctx context.Context, r gate.Request, tell func(gate.State)) {
	w := &waiter{owner: kernel.PodOwner{ContainerID: r.ContainerID, IfName: r.IfName}, tell: make(chan gate.State, 2)}
	e.mu.Lock()
	e.waiters[w] = struct{}{}
	e.mu.Unlock()
	e.ObserveRecords() // the record has the pod's addresses by now, of which no notification tells
	defer func() {
		e.mu.Lock()
		delete(e.waiters, w)
		e.mu.Unlock()
		e.ObserveRecords() // from now on its record says whether the pod is attached
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case state := <-w.tell:
			tell(state)
		}
	}
}

// waiting returns the waiters.
func (e *Enforcer) waiting() []*waiter {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.waiters))
}

// notify tells the waiters what the kernel holds after a good sync. e.state is held.
func (e *Enforcer) notify() {
	for _, w := range e.waiting() {
		e.look(w)
	}
}

// look tells a waiter what is news to it.
func (e *Enforcer) look(w *waiter) {
	addrs := e.pods.addrs[w.owner]
	if !w.seen || len(addrs) == 0 || w.ready {
		return
	}
	enforced := true
	for _, a := range addrs {
		holder, ok := e.pods.holder(a)
		enforced = enforced && ok && e.filter.Enforced(holder.Key, holder.UID)
	}
	switch {
	case w.clean:
	case w.cut != 0:
		w.clean = e.cutter.Done(w.cut)
	case e.vacancies.clean(addrs):
		w.clean = true
	default:
		w.cut = e.cutter.Cut()
	}
	switch {
	case w.clean && enforced:
		w.ready = true
		w.tell <- gate.StateReady
	case w.clean && !w.closed:
		w.closed = true
		w.tell <- gate.StateClosed
	}
}

// looked is called after each look at connections.
func (e *Enforcer) looked(began time.Time) {
	e.state.Lock()
	defer e.state.Unlock()
	e.vacancies.looked(began)
	if e.synced && !e.compare {
		e.notify()
	}
}
