package topology

import (
	"fmt"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
)

// external returns the sessions with peers that are not nodes. Of two with one address, the first of the file counts.
func (v *view) external(said announced) ([]bgp.Peer, []bgp.Range) {
	var peers []bgp.Peer
	var ranges []bgp.Range
	taken := map[any]string{}
	for _, p := range v.Config.Peers {
		if !p.Nodes.Matches(v.Node.Name, v.Node.Labels) {
			continue
		}
		var at any = p.Address
		if p.Range.IsValid() {
			at = p.Range
		}
		s, err := v.externalSettings(p, said)
		if first, twice := taken[at]; twice && err == nil {
			err = fmt.Errorf("%v is the address of peer %s too; choose their nodes so that no node has both", at, first)
		}
		if err != nil {
			v.reject("peer "+p.Name, err)
			continue
		}
		taken[at] = p.Name
		if p.Range.IsValid() {
			ranges = append(ranges, bgp.Range{Name: p.Name, Prefix: p.Range, Settings: s})
			continue
		}
		peers = append(peers, bgp.Peer{Name: p.Name, Address: p.Address, Port: p.Port, Settings: s})
	}
	return peers, ranges
}

func (v *view) externalSettings(p config.Peer, said announced) (bgp.Settings, error) {
	s := p.Settings
	if v.Uplink.Has(p.Address) || p.Address.IsValid() && (p.Address == v.Self.PublicIP || p.Address == v.Self.PublicIPv6) {
		return s, fmt.Errorf("%s is an address of this node", p.Address)
	}
	inside := s.AS == v.Node.AS
	if inside {
		s.MultihopTTL = 0 // sessions within an AS are not bound to one hop anyway
	}
	if p.ReflectorClient {
		if !inside {
			return s, fmt.Errorf("reflectorClient: its AS is %d and this node's %d; only a neighbour of the same AS can be a client", s.AS, v.Node.AS)
		}
		s.Reflector = &bgp.Reflector{ClusterID: v.clusterID()}
	}
	if !v.oneHop(p) {
		s.BFD = nil
	}
	password, err := v.Passwords.Lookup(p.PasswordFile)
	if err != nil {
		return s, err
	}
	s.Password = password
	s.Export = said.toExternal(p.Settings.Export)
	return s, nil
}

// oneHop reports whether single-hop BFD can reach the neighbour.
func (v *view) oneHop(p config.Peer) bool {
	s := p.Settings
	if p.Range.IsValid() || s.MultihopTTL > 1 || s.TTLSecurity > 1 {
		return false
	}
	return s.AS != v.Node.AS || s.TTLSecurity == 1 || v.Uplink.OnLink(p.Address) || p.Address.IsLinkLocalUnicast()
}
