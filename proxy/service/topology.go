package service

import "net/netip"

// A choice is which of a port's endpoints are used on this node.
type choice struct {
	cluster  []Endpoint       // with traffic policy Cluster
	local    []Endpoint       // with traffic policy Local
	draining []netip.AddrPort // see Frontend.Draining
	any      bool             // there is a usable endpoint on some node

	ready, localReady bool // there is a ready one on some node, on this node
}

// choose picks endpoints as kube-proxy 1.37 does (pkg/proxy/topology.go). Ready ones, or, where there is none, those that still serve
// while they terminate (KEP-1669); this is judged apart for Cluster and for Local. Topology concerns Cluster alone.
func (r *resolver) choose(all []candidate, weights weights) choice {
	var c choice
	local := false
	for _, e := range all {
		c.any = c.any || e.usable()
		c.ready = c.ready || e.ready
		if r.isLocal(e) {
			local = local || e.usable()
			c.localReady = c.localReady || e.ready
		}
	}
	if !c.any {
		return c
	}
	near := r.near(all)
	c.cluster = r.pick(all, weights, func(e candidate) bool {
		return e.ready && near(e) || !c.ready && e.draining()
	})
	if !local {
		return c
	}
	c.local = r.pick(all, weights, func(e candidate) bool {
		return r.isLocal(e) && (e.ready || !c.localReady && e.draining())
	})
	if same(c.cluster, c.local) {
		c.local = c.cluster
	}
	return c
}

func (r *resolver) isLocal(e candidate) bool { return e.node == r.node && e.node != name{} }

// near returns the condition that the endpoints' hints put on ready ones. Hints for nodes go before hints for zones; either kind is
// followed only if every ready endpoint has it and one of them is meant for this node, so that half-written hints send nobody
// nowhere (KEP-2433, KEP-3015). Hints are all that counts: trafficDistribution and the topology mode are for those who write them.
func (r *resolver) near(all []candidate) func(candidate) bool {
	allNode, allZone := true, true
	var forNode, forZone bool
	for _, e := range all {
		if !e.ready {
			continue
		}
		allNode = allNode && e.hintNodes != name{}
		allZone = allZone && e.hintZones != name{}
		forNode = forNode || hinted(e.hintNodes, r.node)
		forZone = forZone || hinted(e.hintZones, r.zone)
	}
	switch {
	case allNode && forNode:
		return func(e candidate) bool { return hinted(e.hintNodes, r.node) }
	case allZone && forZone:
		return func(e candidate) bool { return hinted(e.hintZones, r.zone) }
	}
	return func(candidate) bool { return true }
}

// pick returns those that are wanted, in a slice of just their size.
func (r *resolver) pick(all []candidate, weights weights, want func(candidate) bool) []Endpoint {
	n := 0
	for _, e := range all {
		if want(e) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	picked := make([]Endpoint, 0, n)
	for _, e := range all {
		if want(e) {
			picked = append(picked, Endpoint{Addr: e.addrPort(), Local: r.isLocal(e), Weight: weights.lookup(e.endpoint)})
		}
	}
	return picked
}
