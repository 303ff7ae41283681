package service

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// connected returns the endpoints of a port that may have connections, where somebody wants to know it; whatever they weigh.
func (v *view) connected(p *store.ServicePort, all []candidate) []netip.AddrPort {
	tcp := p.Protocol == store.TCP && v.svc.ResetConnections
	if !tcp && p.Protocol != store.UDP {
		return nil
	}
	var out []netip.AddrPort
	for _, c := range all {
		if c.ready || c.serving || tcp && c.terminating {
			out = append(out, c.addrPort())
		}
	}
	return out
}

// without returns the elements of all that are not in chosen. Both are sorted; all is used up.
func without(all []netip.AddrPort, chosen []Endpoint) []netip.AddrPort {
	all = slices.DeleteFunc(all, func(a netip.AddrPort) bool {
		_, found := slices.BinarySearchFunc(chosen, a, func(e Endpoint, a netip.AddrPort) int { return e.Addr.Compare(a) })
		return found
	})
	if len(all) == 0 {
		return nil
	}
	return slices.Clone(all) // of just its size: it lives as long as the Service
}
