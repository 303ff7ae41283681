package proxy

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// staleFlows returns the conntrack entries that a change of a Service leaves behind. A client that goes on sending datagrams from one port keeps
// its entry alive, and with it the way to an endpoint that is gone, or past a frontend that is new. TCP needs none of it: an
// endpoint that is gone ends its connections itself, and those of a dead node end when the client gives up. A Service can ask that this
// be sooner: without its entry, the client's next packet gets to an endpoint that knows no such connection and resets it. Where the
// frontend itself is gone, TCP connections go on: their endpoints may be well.
func staleFlows(old, now *service.Service) []conntrack.Match {
	var out []conntrack.Match
	before, after := byKey(old), byKey(now)
	for key, was := range before {
		match := conntrack.Match{Protocol: uint8(key.Protocol), Dst: netip.AddrPortFrom(key.Addr, key.Port)}
		is := after[key]
		switch {
		case is != nil && flushes(is):
			for e := range answering(was) {
				if !mayAnswer(is, e) {
					match.Endpoint = e
					out = append(out, match)
				}
			}
		case is == nil && key.Protocol == store.UDP:
			out = append(out, match) // whoever answered
		}
	}
	for key, is := range after {
		was := before[key]
		if key.Protocol == store.UDP && len(answering(is)) > 0 && (was == nil || len(answering(was)) == 0) {
			// Datagrams that came earlier were not translated: they were answered, if at all, by the address itself.
			dst := netip.AddrPortFrom(key.Addr, key.Port)
			out = append(out, conntrack.Match{Protocol: uint8(key.Protocol), Dst: dst, Endpoint: dst})
		}
	}
	return out
}

func byKey(s *service.Service) map[service.FrontendKey]*service.Frontend {
	m := map[service.FrontendKey]*service.Frontend{}
	if s != nil {
		for i, f := range s.Frontends {
			if f.Protocol == store.UDP || f.Protocol == store.TCP {
				m[f.FrontendKey] = &s.Frontends[i]
			}
		}
	}
	return m
}

// flushes reports whether entries for endpoints that are gone are removed.
func flushes(f *service.Frontend) bool {
	return f.Protocol == store.UDP || f.Protocol == store.TCP && f.ResetConnections
}

// flushable returns a Service's frontends of that kind.
func flushable(s *service.Service) []*service.Frontend {
	var out []*service.Frontend
	if s != nil {
		for i := range s.Frontends {
			if flushes(&s.Frontends[i]) {
				out = append(out, &s.Frontends[i])
			}
		}
	}
	return out
}

// answering returns all that a frontend's connections may be with.
func answering(f *service.Frontend) map[netip.AddrPort]bool {
	m := make(map[netip.AddrPort]bool, len(f.Endpoints))
	for _, e := range f.Endpoints {
		m[e.Addr] = true
	}
	if f.Inside != nil {
		for _, e := range f.Inside.Endpoints {
			m[e.Addr] = true
		}
	}
	for _, e := range f.Draining {
		m[e] = true
	}
	return m
}

// mayAnswer reports whether the endpoint is in answering.
func mayAnswer(f *service.Frontend, endpoint netip.AddrPort) bool {
	is := func(e service.Endpoint) bool { return e.Addr == endpoint }
	return slices.ContainsFunc(f.Endpoints, is) || f.Inside != nil && slices.ContainsFunc(f.Inside.Endpoints, is) || slices.Contains(f.Draining, endpoint)
}
