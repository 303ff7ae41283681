package kerneltest

import (
	"github.com/twill-cni/twill/kernel"
)

func (k *Kernel) removeFDB(key kernel.FDBKey) bool {
	old, ok := k.fdb[key]
	if ok {
		delete(k.fdb, key)
		k.notify(kernel.Event{Kind: kernel.KindFDB, Deleted: true, FDB: old.value, Foreign: old.origin == Foreign})
	}
	return ok
}

func (k *Kernel) removeNeighbor(key kernel.NeighborKey) bool {
	old, ok := k.neighbors[key]
	if ok {
		delete(k.neighbors, key)
		decrement(k.macs, kernel.FDBKey{Link: key.Link, MAC: old.value.MAC})
		k.notify(kernel.Event{Kind: kernel.KindNeighbor, Deleted: true, Neighbor: old.value, Foreign: old.origin == Foreign})
	}
	return ok
}

func (k *Kernel) removeRoute(key kernel.RouteKey, notify bool) {
	old, ok := k.routes[key]
	if !ok {
		return
	}
	delete(k.routes, key)
	k.countGateways(old.value, -1)
	if notify {
		k.notify(kernel.Event{Kind: kernel.KindRoute, Deleted: true, Route: old.value, Foreign: old.origin == Foreign})
	}
}

// removeLink takes the link away with all that lives on it.
func (k *Kernel) removeLink(name string) {
	if _, ok := k.links[name]; !ok {
		return
	}
	k.flush(name, true)
	for key := range k.fdb {
		if key.Link == name {
			k.removeFDB(key)
		}
	}
	delete(k.links, name)
	k.notify(kernel.Event{Kind: kernel.KindLink, Link: name, Deleted: true})
}

// flush takes away what a link loses when it goes down (v6: of both families, else of IPv4 alone): its neighbours, and
// the routes that have no other link.
func (k *Kernel) flush(name string, v6 bool) {
	for key, r := range k.routes {
		if onlyOn(r.value, name) && (v6 || key.Dst.Addr().Is4()) {
			k.removeRoute(key, key.Dst.Addr().Is6())
		}
	}
	for key := range k.neighbors {
		if key.Link == name && (v6 || key.IP.Is4()) {
			k.removeNeighbor(key)
		}
	}
}

func onlyOn(r kernel.Route, link string) bool {
	for _, h := range r.NextHops {
		if h.Link != link {
			return false
		}
	}
	return len(r.NextHops) > 0
}

// PutLink makes or changes a link behind the caller's back.
func (k *Kernel) PutLink(l kernel.Link, origin Origin) {
	k.byHand(func() error { k.setLink(l, origin); return nil })
}

// PutFDB makes or changes an FDB entry behind the caller's back.
func (k *Kernel) PutFDB(e kernel.FDBEntry, origin Origin) error {
	return k.byHand(func() error { return k.putFDB(e, origin) })
}

// PutNeighbor makes or changes a neighbour behind the caller's back.
func (k *Kernel) PutNeighbor(n kernel.Neighbor, origin Origin) error {
	return k.byHand(func() error { return k.putNeighbor(n, origin) })
}

// PutRoute makes or changes a route behind the caller's back.
func (k *Kernel) PutRoute(r kernel.Route, origin Origin) error {
	return k.byHand(func() error { return k.putRoute(r, origin) })
}

// DeleteLink removes a link, with all that lives on it, behind the caller's back.
func (k *Kernel) DeleteLink(name string) {
	k.byHand(func() error { k.removeLink(name); return nil })
}

// DeleteFDB removes an FDB entry behind the caller's back.
func (k *Kernel) DeleteFDB(key kernel.FDBKey) {
	k.byHand(func() error { k.removeFDB(key); return nil })
}

// DeleteNeighbor removes a neighbour behind the caller's back.
func (k *Kernel) DeleteNeighbor(key kernel.NeighborKey) {
	k.byHand(func() error { k.removeNeighbor(key); return nil })
}

// DeleteRoute removes a route behind the caller's back.
func (k *Kernel) DeleteRoute(key kernel.RouteKey) {
	k.byHand(func() error { k.removeRoute(key, true); return nil })
}

// SetUp sets a link up or down behind the caller's back.
func (k *Kernel) SetUp(name string, up bool) {
	k.byHand(func() error {
		if l, ok := k.links[name]; ok {
			changed := cloneLink(l.value)
			changed.Up = up
			k.setLink(changed, l.origin)
		}
		return nil
	})
}

func (k *Kernel) byHand(change func() error) error {
	k.mu.Lock()
	err := change()
	k.mu.Unlock()
	k.tellEvents()
	return err
}
