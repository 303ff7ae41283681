package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"

	"github.com/twill-cni/twill/bgp"
)

// assignPolicies puts the two policies in force, empty.
func (e *engine) assignPolicies(ctx context.Context) error {
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		policy := &api.Policy{Name: name}
		if err := e.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
			return fmt.Errorf("add %s policy: %w", name, err)
		}
		if err := e.server.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: direction, Policies: []*api.Policy{policy}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		}}); err != nil {
			return fmt.Errorf("assign %s policy: %w", name, err)
		}
	}
	return nil
}

// setPolicies replaces the policies at once, and has the library look again at the announcements of those neighbours whose filters changed.
// Their sessions go on. Neighbours with rules that cannot be had keep what they had.
func (e *engine) setPolicies(ctx context.Context, want bgp.Instance) error {
	filters := filtersOf(want)
	for _, p := range want.Peers {
		if checkRules(p.Settings) != nil {
			keep(filters.peers, e.filters.peers, p.Address)
		}
	}
	for _, r := range want.Ranges {
		if checkRules(r.Settings) != nil {
			keep(filters.ranges, e.filters.ranges, r.Prefix)
		}
	}
	if same(e.filters, filters) {
		return nil
	}
	if err := e.server.SetPolicies(ctx, filters.policies()); err != nil {
		return fmt.Errorf("set BGP policies: %w", err)
	}
	old := e.filters
	e.filters = filters
	return e.refilter(ctx, old)
}

func keep[K comparable](now, before map[K]filter, key K) {
	if f, ok := before[key]; ok {
		now[key] = f
	} else {
		delete(now, key)
	}
}

// refilter puts changed filters into effect for sessions that exist.
func (e *engine) refilter(ctx context.Context, old filters) error {
	hops := old.own4 != e.filters.own4 || old.own6 != e.filters.own6
	changed := func(a, b filter) (in, out bool) {
		return !same(a.imports, b.imports), hops || a.nextHopSelf != b.nextHopSelf || !same(a.exports, b.exports)
	}
	var errs []error
	err := e.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.State.NeighborAddress)
		if err != nil || p.State.SessionState != api.PeerState_SESSION_STATE_ESTABLISHED {
			return
		}
		var in, out bool
		if before, ok := old.peers[addr]; ok {
			in, out = changed(before, e.filters.peers[addr])
		} else if prefix, err := netip.ParsePrefix(p.Conf.PeerGroup); err == nil {
			in, out = changed(old.ranges[prefix], e.filters.ranges[prefix])
		}
		if in {
			errs = append(errs, filtering(p, e.softReset(ctx, p, api.ResetPeerRequest_DIRECTION_IN)))
		}
		if out {
			errs = append(errs, filtering(p, e.softReset(ctx, p, api.ResetPeerRequest_DIRECTION_OUT)))
		}
	})
	return errors.Join(append(errs, err)...)
}

func (e *engine) softReset(ctx context.Context, p *api.Peer, direction api.ResetPeerRequest_Direction) error {
	return e.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.State.NeighborAddress, Soft: true, Direction: direction})
}

func filtering(p *api.Peer, err error) error {
	if err != nil {
		return fmt.Errorf("apply the filters of peer %s: %w", p.State.NeighborAddress, err)
	}
	return nil
}
