package topology

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

// recheckSilent is how often the plan is looked at while a neighbour has not said all: one without graceful restart says no word when it has.
const recheckSilent = time.Second

// listen finds the reflectors of this AS and which of them are heard.
func (v *view) listen() {
	v.reflectors, v.hears = map[string]*node{}, map[string]bool{}
	for _, n := range v.nodes {
		if n.inside && n.reflects() && v.reflectors[n.Node] == nil {
			v.reflectors[n.Node] = n
		}
	}
	for name, n := range v.reflectors {
		if (v.isReflector() || v.servesMe(n)) && v.hearsNow(n) {
			v.hears[name] = true
		}
	}
	v.missNobody()
}

// missNobody keeps the reflectors that carried routes to this node before among those that are heard, until they are not missed.
func (v *view) missNobody() {
	if v.Config.Mesh == config.MeshOff {
		return
	}
	var former []*node
	for _, n := range v.nodes {
		if n.inside && n.Reflector != nil && !v.hears[n.Node] && slices.Contains(v.Published.Hears, n.Node) && v.hearsNow(n) {
			former = append(former, n)
		}
	}
	if len(former) == 0 || v.meshComplete() {
		return
	}
	for _, n := range former {
		v.hears[n.Node] = true
	}
}

func (v *view) isReflector() bool { return v.Node.Reflector != nil }

// servesMe reports whether this node is a client of the reflector n.
func (v *view) servesMe(n *node) bool {
	return n.inside && n.reflects() && !v.isReflector() && n.Reflector.Serves.Matches(v.Node.Name, v.Node.Labels)
}

// serves reports whether the node n is a client of this reflector.
func (v *view) serves(n *node) bool {
	return v.isReflector() && n.inside && !n.reflects() && v.Node.Reflector.Serves.Matches(n.Node, n.Labels)
}

// stillServes reports whether n, be it a client any more or not, needs what it hears from this node.
func (v *view) stillServes(n *node) bool {
	return v.Published.Reflector != nil && n.inside && n.hearsOf(v.Node.Name)
}

// hearsNow reports whether n has told all that it knows, and whether that is still there. A reflector that was heard is heard for as long as
// its session holds: after a restart it sends End-of-RIB late, but what it said before is not forgotten.
func (v *view) hearsNow(n *node) bool {
	s, heard := v.sessions[n.address], slices.Contains(v.Published.Hears, n.Node)
	switch {
	case s.Established():
		return heard || v.complete(s)
	case !heard || v.Config.Graceful == nil:
		return false
	case s.Restarted:
		// Once it is away for half of the time that its routes are kept, it counts as dead, so that the mesh is there before they go.
		return v.before(s.Since.Add(v.Config.Graceful.RestartTime / 2))
	case s.Flaps == 0:
		// An earlier run of the daemon heard it, and the kernel still forwards by what that learned.
		return v.before(v.Started.Add(v.Config.Graceful.StaleTime))
	}
	return false
}

// before reports whether a time is still to come, and asks for another plan then.
func (v *view) before(t time.Time) bool {
	left := t.Sub(v.Now)
	if left > 0 {
		v.recheck(left)
	}
	return left > 0
}

// complete reports whether the neighbour of a session has said all that it had to say, and had its moment more.
func (v *view) complete(s bgp.SessionState) bool {
	if s.Established() && !s.EndOfRIB {
		v.recheck(recheckSilent)
	}
	return s.Established() && s.EndOfRIB && !v.before(s.Since.Add(Settle))
}

// meshComplete reports whether the node hears, from themselves, all nodes that it does not hear of through reflectors.
func (v *view) meshComplete() bool {
	for _, n := range v.nodes {
		if !v.covered(n) && !v.complete(v.sessions[n.address]) {
			return false
		}
	}
	return true
}

// covered reports whether reflectors carry what this node and n announce from one to the other. It is the same on both sides once each
// knows what the other publishes.
func (v *view) covered(n *node) bool {
	if !n.inside {
		return false
	}
	for _, theirs := range v.waysTo(n) {
		if v.isReflector() {
			if v.linked(v.Node.Name, theirs) {
				return true
			}
			continue
		}
		for mine := range v.hears {
			if r := v.reflectors[mine]; r != nil && v.servesMe(r) && v.linked(mine, theirs) {
				return true
			}
		}
	}
	return false
}

// waysTo returns the names of the reflectors that exchange routes with n: itself, or those that serve it and that it hears.
func (v *view) waysTo(n *node) []string {
	if n.reflects() {
		return []string{n.Node}
	}
	var names []string
	for _, name := range n.Hears {
		r := v.reflectors[name]
		if r != nil && r.Reflector.Serves.Matches(n.Node, n.Labels) || name == v.Node.Name && v.serves(n) {
			names = append(names, name)
		}
	}
	return names
}

// linked reports whether routes that one reflector has from its clients reach the clients of the other. Two of one cluster do not take them
// from each other (RFC 4456, section 8).
func (v *view) linked(a, b string) bool {
	if a == b {
		return true
	}
	return v.clusterOf(a) != v.clusterOf(b) && v.reflectorHears(a, b) && v.reflectorHears(b, a)
}

func (v *view) reflectorHears(a, b string) bool {
	if a == v.Node.Name {
		return v.hears[b]
	}
	r := v.reflectors[a]
	return r != nil && r.hearsOf(b)
}

func (v *view) clusterOf(name string) netip.Addr {
	if r := v.reflectors[name]; r != nil {
		return r.Reflector.ClusterID
	}
	return v.clusterID()
}

// clusterID is that of this node. A node that stops being a reflector keeps the one that it had.
func (v *view) clusterID() netip.Addr {
	switch {
	case v.Node.ClusterID.IsValid():
		return v.Node.ClusterID
	case !v.isReflector() && v.Published.Reflector != nil:
		return v.Published.Reflector.ClusterID
	}
	return v.routerID
}

// publish returns what this node says of itself.
func (v *view) publish() bgp.LeaseData {
	d := bgp.LeaseData{
		AS: v.Node.AS, Node: v.Node.Name, RouterID: v.routerID,
		Labels: v.labels(), Reflector: v.publishReflector(), Hears: slices.Sorted(maps.Keys(v.hears)),
	}
	if v.Node.Port != bgpPort {
		d.Port = v.Node.Port
	}
	return d
}

// bgpPort is that of a neighbour without a port (RFC 4271, section 8.2.1).
const bgpPort = 179

func (v *view) publishReflector() *bgp.LeaseReflector {
	if v.isReflector() {
		return &bgp.LeaseReflector{ClusterID: v.clusterID(), Serves: v.Node.Reflector.Serves}
	}
	if slices.ContainsFunc(v.nodes, v.stillServes) {
		leaving := *v.Published.Reflector
		leaving.Leaving = true
		return &leaving
	}
	return nil
}

// labels returns those of this node's labels that reflectors, of the file or of other nodes' records, choose by.
func (v *view) labels() map[string]string {
	keys := v.Config.SelectorLabels()
	for _, n := range v.nodes {
		if n.Reflector != nil {
			for key := range n.Reflector.Serves.Labels {
				keys[key] = true
			}
		}
	}
	var labels map[string]string
	for key := range keys {
		if value, ok := v.Node.Labels[key]; ok {
			if labels == nil {
				labels = map[string]string{}
			}
			labels[key] = value
		}
	}
	return labels
}
