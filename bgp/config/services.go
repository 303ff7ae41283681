package config

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/bgp"
)

// Services says which addresses of Services nodes announce, as host routes. The zero Services announces none.
type Services struct {
	Nodes           bgp.Selector
	ClusterIPs      []netip.Prefix // those within one of these; empty: none
	ExternalIPs     []netip.Prefix
	LoadBalancerIPs []netip.Prefix
	LocalOnly       bool // those alone whose traffic policy is Local
	Attributes
}

// Announces reports whether nodes that are chosen announce the address.
func (s *Services) Announces(a bgp.ServiceAddress) bool {
	if s.LocalOnly && !a.Local {
		return false
	}
	return slices.ContainsFunc(s.ranges(a.Kind), func(p netip.Prefix) bool { return p.Contains(a.Prefix.Addr()) })
}

func (s *Services) ranges(kind bgp.ServiceKind) []netip.Prefix {
	switch kind {
	case bgp.ClusterIP:
		return s.ClusterIPs
	case bgp.ExternalIP:
		return s.ExternalIPs
	case bgp.LoadBalancerIP:
		return s.LoadBalancerIPs
	}
	return nil
}

// serviceAddresses reads what of services there is. Its attributes have no prepend: export rules can do that by range, and need not change
// whenever a Service comes or goes.
func serviceAddresses(to *Services) func(value) {
	return func(v value) {
		const all, local = "all", "local"
		which := all
		attributes := slices.DeleteFunc(to.Attributes.fields(), func(f field) bool { return f.key == "prepend" })
		v.object(append([]field{
			{"clusterIPs", ranges(&to.ClusterIPs)},
			{"externalIPs", ranges(&to.ExternalIPs)},
			{"loadBalancerIPs", ranges(&to.LoadBalancerIPs)},
			{"trafficPolicy", word(&which, all, local)},
			{"nodes", selector(&to.Nodes)},
		}, attributes...)...)
		to.LocalOnly = which == local
	}
}

// ranges reads true for every address, false for none, or the prefixes within which addresses have to be.
func ranges(to *[]netip.Prefix) func(value) {
	return func(v value) {
		switch t := v.v.(type) {
		case bool:
			if t {
				*to = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
			}
		case []any:
			listOf(to, prefix)(v)
			if len(t) == 0 {
				v.fail("the list is empty; want a prefix in it, or false for no address")
			}
		default:
			v.want("true, false, or a list of prefixes such as [198.51.100.0/24]")
		}
	}
}
