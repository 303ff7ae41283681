package reconcile

import "github.com/twill-cni/twill/kernel"

// maxKept bounds the notifications that are kept during a dump. When there are more, the dump is repeated.
const maxKept = 4096

// Observe compares a notification of the kernel with what the kernel is known to hold. When they disagree it marks
// the kind dirty, so that the next Sync reads it again, and returns true: a Sync is due.
//
// It may be called while Sync runs and waits for no I/O. A change of our own is recorded before it is asked for, so
// its echo agrees and is no news, whenever it comes; a change that somebody else made after ours disagrees, whenever
// it comes. An old echo of an object that was changed again since costs one superfluous dump. That dump leads to no
// changes, hence to no echoes, so that it is the last.
func (r *Reconciler) Observe(ev kernel.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reading && ev.Kind == r.readingKind && !ev.Lost {
		if len(r.kept) == maxKept {
			r.dirty[ev.Kind] = true
		} else {
			r.kept = append(r.kept, ev)
		}
		return true
	}
	return r.judge(ev)
}

// judge is Observe with r.mu held.
func (r *Reconciler) judge(ev kernel.Event) bool {
	if ev.Lost {
		r.setDirty(allKinds...)
		return true
	}
	news := false
	switch ev.Kind {
	case kernel.KindLink:
		return r.judgeLink(ev)
	case kernel.KindFDB:
		news = disagrees(r.fdb, ev.FDB, ev, r.isOverlay(ev.FDB.Link))
	case kernel.KindNeighbor:
		news = disagrees(r.neighbors, ev.Neighbor, ev, r.isOverlay(ev.Neighbor.Link))
	case kernel.KindRoute:
		news = disagrees(r.routes, ev.Route, ev, true)
	case kernel.KindTable:
		return r.tableDesired[ev.Table] // the handle, which every Sync asks, can tell news from an echo
	}
	if news {
		r.setDirty(ev.Kind)
	}
	return news
}

// disagrees reports whether the event says something else of v than the tracker. An object that the tracker does not know
// matters only when a dump covers it.
func disagrees[K comparable, V any](t *tracker[K, V], v V, ev kernel.Event, covered bool) bool {
	switch {
	case ev.Foreign:
		return !ev.Deleted && t.holds(v) // it took the place of ours
	case !t.holds(v):
		return !ev.Deleted && covered
	}
	return !t.agrees(v, ev.Deleted)
}

// judgeLink marks the links dirty, which is a dump of a few objects, and all that lives on the link only when it may
// be gone. An event tells too little of a link to be compared with what is known.
func (r *Reconciler) judgeLink(ev kernel.Event) bool {
	intact := ev.Intact && !ev.Deleted
	_, desired := r.links.desired[ev.Link]
	_, actual := r.links.actual[ev.Link]
	switch {
	case (desired || actual) && intact:
		r.setDirty(kernel.KindLink)
	case desired || actual:
		r.setDirty(kernel.KindLink, kernel.KindFDB, kernel.KindNeighbor, kernel.KindRoute)
	case !intact && (r.routeLinks[ev.Link] > 0 || r.routeLinks[""] > 0):
		r.setDirty(kernel.KindRoute)
	default:
		return false
	}
	return true
}

// isOverlay reports whether dumps of neighbours and FDB entries cover the link.
func (r *Reconciler) isOverlay(link string) bool {
	return r.links.desired[link].VXLAN != nil || r.links.actual[link].VXLAN != nil
}

// startReading has the events of one kind kept until finishReading.
func (r *Reconciler) startReading(kind kernel.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading, r.readingKind = true, kind
}

// finishReading calls adopt, which takes over what was read, and compares the kept events with it.
func (r *Reconciler) finishReading(adopt func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	adopt()
	for _, ev := range r.kept {
		r.judge(ev)
	}
	r.reading, r.kept = false, nil
}

var allKinds = []kernel.Kind{kernel.KindLink, kernel.KindFDB, kernel.KindNeighbor, kernel.KindRoute, kernel.KindTable}

func (r *Reconciler) markDirty(kinds ...kernel.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setDirty(kinds...)
}

func (r *Reconciler) setDirty(kinds ...kernel.Kind) {
	for _, kind := range kinds {
		r.dirty[kind] = true
	}
}

// takeDirty reports whether the kind is dirty and takes the mark away: what comes from now on marks it anew.
func (r *Reconciler) takeDirty(kind kernel.Kind) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.dirty[kind]
	r.dirty[kind] = false
	return was
}
