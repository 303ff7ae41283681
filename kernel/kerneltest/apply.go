package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// ApplyLinks implements kernel.Kernel.
func (k *Kernel) ApplyLinks(ctx context.Context, changes []kernel.Change[kernel.Link]) []error {
	return apply(ctx, k, request{ApplyLinks, kernel.KindLink}, changes, func(c kernel.Change[kernel.Link]) error {
		if err := take(k.failObjects, linkObject(c.Value.Name)); err != nil {
			return err
		}
		if c.Delete {
			k.removeLink(c.Value.Name)
			return nil
		}
		k.setLink(c.Value, Ours)
		return nil
	})
}

// ApplyFDB implements kernel.Kernel.
func (k *Kernel) ApplyFDB(ctx context.Context, changes []kernel.Change[kernel.FDBEntry]) []error {
	return apply(ctx, k, request{ApplyFDB, kernel.KindFDB}, changes, func(c kernel.Change[kernel.FDBEntry]) error {
		key := c.Value.Key()
		if err := take(k.failObjects, fdbObject(key)); err != nil {
			return err
		}
		if c.Delete {
			if k.removeFDB(key) && k.macs[key] > 0 {
				k.violate("%s was removed while a neighbor uses it", fdbObject(key))
			}
			return nil
		}
		return k.putFDB(c.Value, Ours)
	})
}

// ApplyNeighbors implements kernel.Kernel.
func (k *Kernel) ApplyNeighbors(ctx context.Context, changes []kernel.Change[kernel.Neighbor]) []error {
	return apply(ctx, k, request{ApplyNeighbors, kernel.KindNeighbor}, changes, func(c kernel.Change[kernel.Neighbor]) error {
		key := c.Value.Key()
		if err := take(k.failObjects, neighborObject(key)); err != nil {
			return err
		}
		if c.Delete {
			if k.removeNeighbor(key) && k.gateways[key] > 0 {
				k.violate("%s was removed while a route uses it", neighborObject(key))
			}
			return nil
		}
		if err := k.putNeighbor(c.Value, Ours); err != nil {
			return err
		}
		mac := kernel.FDBKey{Link: c.Value.Link, MAC: c.Value.MAC}
		if _, ok := k.fdb[mac]; !ok && k.links[c.Value.Link].value.VXLAN != nil {
			k.violate("%s was made before %s", neighborObject(key), fdbObject(mac))
		}
		return nil
	})
}

// ApplyRoutes implements kernel.Kernel.
func (k *Kernel) ApplyRoutes(ctx context.Context, changes []kernel.Change[kernel.Route]) []error {
	return apply(ctx, k, request{ApplyRoutes, kernel.KindRoute}, changes, func(c kernel.Change[kernel.Route]) error {
		key := c.Value.Key()
		if err := take(k.failObjects, routeObject(key)); err != nil {
			return err
		}
		if c.Delete {
			if k.routes[key].origin == Ours { // a request names our protocol and matches no other route
				k.removeRoute(key, true)
			}
			return nil
		}
		if err := k.putRoute(c.Value, Ours); err != nil {
			return err
		}
		for _, gateway := range onLinkGateways(c.Value) {
			if _, ok := k.neighbors[gateway]; !ok {
				k.violate("%s was made before %s", routeObject(key), neighborObject(gateway))
			}
		}
		return nil
	})
}

func apply[V any](ctx context.Context, k *Kernel, req request, changes []kernel.Change[V], one func(kernel.Change[V]) error) []error {
	errs := make([]error, len(changes))
	k.mu.Lock()
	k.counts.Changes[req.kind] += len(changes)
	err := errors.Join(ctx.Err(), k.failing(req.op))
	k.mu.Unlock()
	k.finishStep()
	for i, c := range changes {
		if err != nil {
			errs[i] = err
			continue
		}
		k.mu.Lock()
		errs[i] = one(c)
		k.mu.Unlock()
		k.finishStep()
	}
	if errors.Join(errs...) == nil {
		return nil
	}
	return errs
}

func (k *Kernel) violate(format string, args ...any) {
	k.violations = append(k.violations, fmt.Sprintf(format, args...))
}

// setLink creates the link or brings it in line with want; what want leaves open stays or is chosen.
func (k *Kernel) setLink(want kernel.Link, origin Origin) {
	old, exists := k.links[want.Name]
	if exists && !sameDevice(old.value, want) {
		k.removeLink(want.Name)
		old, exists = object[kernel.Link]{}, false
	}
	have := cloneLink(want)
	have.Unmarked = false
	if have.MTU == 0 {
		have.MTU = 1500
		if exists {
			have.MTU = old.value.MTU
		}
	}
	if have.MAC.IsZero() {
		have.MAC = kernel.StableMAC("kerneltest", want.Name)
		if exists {
			have.MAC = old.value.MAC
		}
	}
	if have.TxChecksumOffload == nil {
		have.TxChecksumOffload = old.value.TxChecksumOffload
	}
	if have.VXLAN != nil && have.VXLAN.Port == 0 {
		have.VXLAN.Port = 8472
	}
	have.Sysctls = maps.Clone(old.value.Sysctls)
	if have.Sysctls == nil {
		have.Sysctls = map[string]string{}
	}
	maps.Copy(have.Sysctls, want.Sysctls)
	k.links[want.Name] = object[kernel.Link]{have, origin}

	wentDown := exists && old.value.Up && !have.Up
	lostIPv4 := exists && hasIPv4(old.value.Addresses) && !hasIPv4(have.Addresses)
	if wentDown || lostIPv4 {
		k.flush(want.Name, wentDown)
	}
	k.notify(kernel.Event{Kind: kernel.KindLink, Link: want.Name,
		Intact: have.Up && !slices.ContainsFunc(old.value.Addresses, missingFrom(have.Addresses))})
}

func missingFrom[V comparable](all []V) func(V) bool {
	return func(v V) bool { return !slices.Contains(all, v) }
}

// sameDevice reports whether have can become want without being made again.
func sameDevice(have, want kernel.Link) bool {
	if (have.Bridge == nil) != (want.Bridge == nil) || (have.VXLAN == nil) != (want.VXLAN == nil) {
		return false
	}
	if want.VXLAN == nil {
		return true
	}
	attrs := *want.VXLAN
	if attrs.Port == 0 {
		attrs.Port = 8472
	}
	return *have.VXLAN == attrs
}

func (k *Kernel) putFDB(e kernel.FDBEntry, origin Origin) error {
	link, ok := k.links[e.Link]
	switch {
	case !ok:
		return ErrNoDevice
	case link.value.VXLAN == nil:
		return ErrNotVXLAN
	}
	k.fdb[e.Key()] = object[kernel.FDBEntry]{e, origin}
	k.notify(kernel.Event{Kind: kernel.KindFDB, FDB: e, Foreign: origin == Foreign})
	return nil
}

func (k *Kernel) putNeighbor(n kernel.Neighbor, origin Origin) error {
	if _, ok := k.links[n.Link]; !ok {
		return ErrNoDevice
	}
	if old, ok := k.neighbors[n.Key()]; ok {
		decrement(k.macs, kernel.FDBKey{Link: n.Link, MAC: old.value.MAC})
	}
	k.neighbors[n.Key()] = object[kernel.Neighbor]{n, origin}
	k.macs[kernel.FDBKey{Link: n.Link, MAC: n.MAC}]++
	k.notify(kernel.Event{Kind: kernel.KindNeighbor, Neighbor: n, Foreign: origin == Foreign})
	return nil
}

func (k *Kernel) putRoute(r kernel.Route, origin Origin) error {
	for _, h := range r.NextHops {
		link, ok := k.links[h.Link]
		switch {
		case h.Link == "":
		case !ok:
			return ErrNoDevice
		case !link.value.Up:
			return ErrDown
		}
	}
	k.countGateways(k.routes[r.Key()].value, -1)
	k.countGateways(r, 1)
	k.routes[r.Key()] = object[kernel.Route]{r, origin}
	k.notify(kernel.Event{Kind: kernel.KindRoute, Route: r, Foreign: origin == Foreign})
	return nil
}

func (k *Kernel) countGateways(r kernel.Route, by int) {
	for _, gateway := range onLinkGateways(r) {
		if k.gateways[gateway] += by; k.gateways[gateway] <= 0 {
			delete(k.gateways, gateway)
		}
	}
}

func decrement[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
