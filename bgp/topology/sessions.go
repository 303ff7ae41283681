package topology

import (
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

// multihopTTL is that of packets to nodes of another AS that are behind routers: enough for any network of one's own.
const multihopTTL = 64

// internal returns the sessions with nodes. A node whose address is one of the peers is left to the configuration.
func (v *view) internal(said announced, peers []bgp.Peer) []bgp.Peer {
	password, err := v.Passwords.Lookup(v.Config.PasswordFile)
	if err != nil {
		v.reject("sessions with nodes", err)
		return nil
	}
	configured := map[netip.Addr]string{}
	for _, p := range peers {
		configured[p.Address] = p.Name
	}
	f := v.nodeFilters(said)
	var out []bgp.Peer
	for _, n := range v.nodes {
		if !v.wanted(n) {
			continue
		}
		if name, ok := configured[n.address]; ok {
			v.reject(n.key, fmt.Errorf("address %s is that of %s in the BGP configuration, which is used", n.address, name))
			continue
		}
		s := v.settings(n)
		s.Password, s.Import, s.Export = password, f.in, f.own
		if v.reflectsTo(n) {
			s.Export = f.reflected
		}
		out = append(out, bgp.Peer{Name: "node " + n.Node, Address: n.address, Port: n.Port, Settings: s})
	}
	return out
}

// wanted reports whether this node holds a session with n. Both sides come to the same result, as soon as they know of each other.
func (v *view) wanted(n *node) bool {
	switch {
	case v.reflectsTo(n), v.servesMe(n), n.inside && v.hears[n.Node]:
		return true
	case v.Config.Mesh == config.MeshOff:
		return false
	}
	return v.Config.Mesh == config.MeshOn || !v.covered(n)
}

// reflectsTo reports whether n hears from this node what others announced.
func (v *view) reflectsTo(n *node) bool {
	return v.serves(n) || v.stillServes(n) || v.isReflector() && n.inside && n.reflects()
}

// settings returns how a session with a node is held.
//
// Within an AS each node treats each other as a client, reflector or not: its filters keep it from reflecting. So a node becomes a
// reflector by a change of filters alone, and no session is lost.
func (v *view) settings(n *node) bgp.Settings {
	c := v.Config
	s := bgp.Settings{
		AS: n.AS, LocalAddress: v.localAddress(n.address), Timers: c.Timers, Graceful: c.Graceful, NextHopSelf: v.Node.NextHopSelf,
	}
	if n.near {
		s.BFD = c.BFD // RFC 5881 is for a single hop
	}
	if n.inside {
		s.Reflector = &bgp.Reflector{ClusterID: v.clusterID()}
	} else if !n.near {
		s.MultihopTTL = multihopTTL
	}
	return s
}

// localAddress returns the address that a neighbour knows this node by: the public one, if it is the uplink's own.
func (v *view) localAddress(neighbour netip.Addr) netip.Addr {
	public := publicOf(v.Self, neighbour.Is6())
	if v.Uplink.Has(public) {
		return public
	}
	return v.Uplink.Addr(neighbour.Is6())
}
