package config

import (
	"slices"

	"github.com/twill-cni/twill/bgp"
)

// peer reads a neighbour, which inherits how the file's sessions are held.
func peer(to *Peer, inherit Session) func(value) {
	return func(v value) {
		session := inherit
		s := &to.Settings
		has := v.object(slices.Concat(session.fields(), []field{
			{"name", peerName(&to.Name)},
			{"nodes", selector(&to.Nodes)},
			{"address", address(&to.Address)},
			{"range", prefix(&to.Range)},
			{"port", number(&to.Port, 1, 65535)},
			{"as", asn(&s.AS)},
			{"passwordFile", file(&to.PasswordFile)},
			{"localAddress", address(&s.LocalAddress)},
			{"passive", boolean(&s.Passive)},
			{"multihopTTL", number(&s.MultihopTTL, 1, 255)},
			{"ttlSecurity", number(&s.TTLSecurity, 1, 254)},
			{"nextHopSelf", boolean(&s.NextHopSelf)},
			{"reflectorClient", boolean(&to.ReflectorClient)},
			{"maxPrefixes", number(&s.MaxPrefixes, 1, 1<<32-1)},
			{"import", listOf(&s.Import, func(r *bgp.Rule) func(value) { return rule(r, false) })},
			{"export", listOf(&s.Export, func(r *bgp.Rule) func(value) { return rule(r, true) })},
		})...)
		s.Timers, s.Graceful, s.BFD = session.Timers, session.Graceful, session.BFD
		v.need(has, "name", "a name, by which the peer is shown")
		v.need(has, "as", "the neighbour's AS number")
		to.checkAddress(v, has)
		to.checkHops(v, has)
	}
}

func (p *Peer) checkAddress(v value, has map[string]bool) {
	local := p.Settings.LocalAddress
	switch {
	case has["address"] == has["range"]:
		v.fail("want either address, for one neighbour, or range, for all within a prefix")
	case has["range"] && has["port"]:
		v.at("port", p.Port).fail("have %d, want none: neighbours of a range are not connected to, they connect", p.Port)
	case local.IsValid() && p.Address.IsValid() && !sameFamily(local, p.Address),
		local.IsValid() && p.Range.IsValid() && !sameFamily(local, p.Range.Addr()):
		v.at("localAddress", local.String()).want("an address of the neighbour's family")
	}
}

func (p *Peer) checkHops(v value, has map[string]bool) {
	s := p.Settings
	switch {
	case s.TTLSecurity > 0 && s.MultihopTTL > 0:
		v.at("ttlSecurity", s.TTLSecurity).fail("have %d beside multihopTTL %d, want one of them: ttlSecurity alone allows as many hops as it says",
			s.TTLSecurity, s.MultihopTTL)
	case has["bfd"] && s.BFD != nil && (s.MultihopTTL > 1 || s.TTLSecurity > 1):
		v.at("bfd", nil).fail("have it on for a neighbour behind routers, want it off: single-hop BFD (RFC 5881) does not reach it")
	case has["bfd"] && s.BFD != nil && p.Range.IsValid():
		v.at("bfd", nil).fail("have it on for a range, want it off: BFD needs the neighbour's address")
	}
}
