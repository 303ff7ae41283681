package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"

	"github.com/twill-cni/twill/bgp"
)

// setPeers removes, replaces and adds peers. A peer whose settings are the same, but for its name, rules and BFD, is not touched; any
// other change ends its session. (The library could change some settings within a session, but forgets then which families the neighbour
// restarts gracefully.)
func (e *engine) setPeers(ctx context.Context, want bgp.Instance) error {
	var errs []error
	wanted := make(map[netip.Addr]bgp.Peer, len(want.Peers))
	for _, p := range want.Peers {
		if _, twice := wanted[p.Address]; twice {
			errs = append(errs, fmt.Errorf("peer %v: it is there twice", p.Address))
			continue
		}
		wanted[p.Address] = p
	}
	for addr, old := range e.peers {
		if _, ok := wanted[addr]; !ok {
			errs = append(errs, e.deletePeer(ctx, old))
			e.sessions.forget(addr)
		}
	}
	for addr := range e.held {
		if _, ok := wanted[addr]; !ok {
			delete(e.held, addr)
			e.sessions.forget(addr)
		}
	}
	for addr, p := range wanted {
		e.sessions.expect(addr, p.Name, waitFor(p.Settings, want.Restarting))
		e.sessions.explain(addr, hintOf(p.Settings))
		if _, ok := e.held[addr]; ok {
			continue
		}
		old, known := e.peers[addr]
		if err := check(p.Settings); err != nil {
			errs = append(errs, fmt.Errorf("peer %v: %w", addr, err))
			continue
		}
		if known && sameSession(old.Settings, p.Settings) && old.Port == p.Port {
			e.peers[addr] = p
			continue
		}
		if known {
			errs = append(errs, e.deletePeer(ctx, old))
		}
		errs = append(errs, e.addPeer(ctx, p, want.Restarting && !known))
	}
	return errors.Join(errs...)
}

func (e *engine) addPeer(ctx context.Context, p bgp.Peer, restarting bool) error {
	if err := e.unshun(ctx, p.Address); err != nil {
		return err
	}
	if err := e.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peerOf(p, e.families, restarting)}); err != nil {
		return fmt.Errorf("add peer %v: %w", p.Address, err)
	}
	e.peers[p.Address] = p
	return nil
}

// deletePeer ends the session with a Cease.
//
// The listener's MD5 key for the neighbour outlives DeletePeer; an update that takes the password away removes it first.
func (e *engine) deletePeer(ctx context.Context, p bgp.Peer) error {
	delete(e.peers, p.Address)
	if p.Password != "" {
		open := p
		open.Password = ""
		if _, err := e.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peerOf(open, e.families, false)}); err != nil {
			return fmt.Errorf("delete peer %v: remove its password: %w", p.Address, err)
		}
	}
	if err := e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		return fmt.Errorf("delete peer %v: %w", p.Address, err)
	}
	return nil
}

// sameSession reports whether a session with settings a need not end for b.
func sameSession(a, b bgp.Settings) bool {
	a.Import, a.Export, a.NextHopSelf, a.BFD = nil, nil, false, nil
	b.Import, b.Export, b.NextHopSelf, b.BFD = nil, nil, false, nil
	return same(a, b)
}

// setRanges likewise. When a range goes or changes, the sessions of its neighbours end.
func (e *engine) setRanges(ctx context.Context, want bgp.Instance) error {
	var errs []error
	wanted := make(map[netip.Prefix]bgp.Range, len(want.Ranges))
	for _, r := range want.Ranges {
		if _, twice := wanted[r.Prefix]; twice {
			errs = append(errs, fmt.Errorf("range %v: it is there twice", r.Prefix))
			continue
		}
		wanted[r.Prefix] = r
	}
	for prefix, old := range e.ranges {
		if r, ok := wanted[prefix]; !ok || !sameSession(old.Settings, r.Settings) {
			errs = append(errs, e.deleteRange(ctx, prefix))
		}
	}
	for prefix, r := range wanted {
		e.sessions.expectRange(prefix.String(), r.Name, waitFor(r.Settings, want.Restarting))
		if err := check(r.Settings); err != nil {
			errs = append(errs, fmt.Errorf("range %v: %w", prefix, err))
			continue
		}
		if _, known := e.ranges[prefix]; known {
			e.ranges[prefix] = r
			continue
		}
		errs = append(errs, e.addRange(ctx, r))
	}
	return errors.Join(errs...)
}

// A range is a peer group of the same name and the prefix that belongs to it.
func (e *engine) addRange(ctx context.Context, r bgp.Range) error {
	name := r.Prefix.String()
	group := groupOf(r.Settings, e.families)
	group.Conf.PeerGroupName = name
	if err := e.server.AddPeerGroup(ctx, &api.AddPeerGroupRequest{PeerGroup: group}); err != nil {
		return fmt.Errorf("add range %v: %w", r.Prefix, err)
	}
	if err := e.server.AddDynamicNeighbor(ctx, &api.AddDynamicNeighborRequest{
		DynamicNeighbor: &api.DynamicNeighbor{Prefix: name, PeerGroup: name},
	}); err != nil {
		return fmt.Errorf("add range %v: %w", r.Prefix, err)
	}
	e.ranges[r.Prefix] = r
	return nil
}

func (e *engine) deleteRange(ctx context.Context, prefix netip.Prefix) error {
	name := prefix.String()
	delete(e.ranges, prefix)
	errs := []error{e.server.DeleteDynamicNeighbor(ctx, &api.DeleteDynamicNeighborRequest{Prefix: name, PeerGroup: name})}
	var members []string
	errs = append(errs, e.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if p.Conf.PeerGroup == name {
			members = append(members, p.State.NeighborAddress)
		}
	}))
	for _, m := range members {
		errs = append(errs, e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: m}))
	}
	errs = append(errs, e.server.DeletePeerGroup(ctx, &api.DeletePeerGroupRequest{Name: name}))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete range %v: %w", prefix, err)
	}
	return nil
}
