package zone

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

// Version is that of the specification that names follow.
const Version = "1.1.0"

// question is one that is being answered.
type question struct {
	z     *Zone
	name  string // as it was asked for
	qtype uint16
	apex  string // of the zone that the name is in
	out   Answer
}

func (q *question) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: TTL}
}

func addressRecord(owner string, addr netip.Addr) dns.RR {
	if addr.Is4() {
		return &dns.A{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: TTL}, A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: TTL}, AAAA: addr.AsSlice()}
}

// address adds the record of an address, if its type was asked for.
func (q *question) address(addr netip.Addr) {
	if addr.Is4() && q.qtype == dns.TypeA || addr.Is6() && q.qtype == dns.TypeAAAA {
		q.out.Records = append(q.out.Records, addressRecord(q.name, addr))
	}
}

// ofApex answers for the domain itself.
func (q *question) ofApex() bool {
	switch q.qtype {
	case dns.TypeSOA:
		soa := q.z.soa(q.apex)
		soa.Header().Name = q.name
		q.out.Records = []dns.RR{soa}
	case dns.TypeNS:
		server := "ns.dns." + q.z.domain
		q.out.Records = []dns.RR{&dns.NS{Hdr: q.header(dns.TypeNS), Ns: server}}
		for _, addr := range q.z.around.Load().servers {
			q.out.Extra = append(q.out.Extra, addressRecord(server, addr))
		}
	}
	return true
}

// below answers for a name below the domain, given as its labels before that. It reports whether the name exists. A label with a backslash, by which
// package dns writes unusual bytes, is nobody's.
func (q *question) below(labels []string) bool {
	last := len(labels) - 1
	switch rest := labels[:last]; labels[last] {
	case "svc":
		return q.ofServices(rest)
	case "pod":
		return q.ofPods(rest)
	case "dns-version":
		if len(rest) == 0 && q.qtype == dns.TypeTXT {
			q.out.Records = []dns.RR{&dns.TXT{Hdr: q.header(dns.TypeTXT), Txt: []string{Version}}}
		}
		return len(rest) == 0
	case "dns":
		if len(rest) == 1 && rest[0] == "ns" {
			for _, addr := range q.z.around.Load().servers {
				q.address(addr)
			}
			return true
		}
		return len(rest) == 0
	}
	return false
}

// ofServices answers for what is before svc.DOMAIN.
func (q *question) ofServices(labels []string) bool {
	n := len(labels)
	switch {
	case n == 0:
		return true
	case n == 1:
		return q.z.serviceNamespaces.has(labels[0])
	case n > 4:
		return false
	}
	s, ok := q.z.services.get(store.ObjectName{Namespace: labels[n-1], Name: labels[n-2]})
	switch {
	case !ok:
		return false
	case n == 2:
		return q.ofService(s)
	case s.external != "":
		return false
	case n == 4:
		return q.ofPort(s, labels[0], labels[1])
	case strings.HasPrefix(labels[0], "_"):
		return s.hasPortOf(labels[0])
	}
	at, found := slices.BinarySearchFunc(s.endpoints, labels[0], func(e endpoint, name string) int { return strings.Compare(e.name, name) })
	for ; at < len(s.endpoints) && s.endpoints[at].name == labels[0]; at++ {
		q.address(s.endpoints[at].addr)
	}
	return found
}

// ofService answers for a Service's own name.
func (q *question) ofService(s *service) bool {
	if s.external != "" {
		if q.qtype == dns.TypeANY {
			return true
		}
		q.out.Records = []dns.RR{&dns.CNAME{Hdr: q.header(dns.TypeCNAME), Target: s.external}}
		if q.qtype != dns.TypeCNAME {
			q.out.Target = s.external
		}
		return true
	}
	for _, addr := range s.clusterIPs {
		q.address(addr)
	}
	if !s.headless {
		return true
	}
	for i, addr := range s.addrs {
		if i == 0 || addr != s.addrs[i-1] {
			q.address(addr)
		}
	}
	return len(s.endpoints) > 0
}

// maxExtra is of how many endpoints a SRV answer gives the addresses along.
const maxExtra = 64

// ofPort answers for _PORT._PROTO before a Service's name.
func (q *question) ofPort(s *service, port, proto string) bool {
	protocol, ok := protocolOf(proto)
	name, ok2 := strings.CutPrefix(port, "_")
	if !ok || !ok2 || name == "" {
		return false
	}
	if !s.headless {
		at := slices.IndexFunc(s.ports, func(p store.ServicePort) bool { return p.Name == name && p.Protocol == protocol })
		if at >= 0 && q.qtype == dns.TypeSRV {
			q.out.Records = []dns.RR{&dns.SRV{Hdr: q.header(dns.TypeSRV), Weight: 100, Port: s.ports[at].Port, Target: s.name}}
			for _, addr := range s.clusterIPs {
				q.out.Extra = append(q.out.Extra, addressRecord(s.name, addr))
			}
		}
		return at >= 0
	}
	var found []target
	for _, e := range s.endpoints {
		for _, p := range e.ports {
			if p.Name == name && p.Protocol == protocol {
				found = append(found, target{e.name, p.Port, e.addr})
			}
		}
	}
	if q.qtype == dns.TypeSRV {
		q.targets(s, found)
	}
	return len(found) > 0
}

// target is where an endpoint has a port.
type target struct {
	name string
	port uint16
	addr netip.Addr
}

// targets adds a SRV record for each name and port, with the addresses of the first few. Endpoints are sorted by their names.
func (q *question) targets(s *service, found []target) {
	weight := uint16(max(1, 100/max(1, len(found)))) // as CoreDNS
	for i, t := range found {
		owner := t.name + "." + s.name
		if i < maxExtra {
			q.out.Extra = append(q.out.Extra, addressRecord(owner, t.addr))
		}
		same := func(o target) bool { return o.name == t.name && o.port == t.port }
		first := i
		for first > 0 && found[first-1].name == t.name {
			first--
		}
		if slices.ContainsFunc(found[first:i], same) { // its other family
			continue
		}
		q.out.Records = append(q.out.Records, &dns.SRV{Hdr: q.header(dns.TypeSRV), Weight: weight, Port: t.port, Target: owner})
	}
}

func protocolOf(label string) (store.Protocol, bool) {
	switch label {
	case "_tcp":
		return store.TCP, true
	case "_udp":
		return store.UDP, true
	case "_sctp":
		return store.SCTP, true
	}
	return 0, false
}

// ofPods answers for what is before pod.DOMAIN.
func (q *question) ofPods(labels []string) bool {
	switch len(labels) {
	case 0:
		return true
	case 1:
		return q.z.podNamespaces.has(labels[0])
	case 2:
		addr, ok := parseDashed(labels[0])
		if ok && q.z.pods.has(podAddr{labels[1], addr}) {
			q.address(addr)
			return true
		}
	}
	return false
}

// dashed returns an address as a label. A label does not end with a hyphen (RFC 1123, 2.1), so what ends with "::" gets its last zero.
func dashed(addr netip.Addr) string {
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	label := strings.ReplaceAll(addr.String(), ":", "-")
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label
}

func parseDashed(label string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil && addr.Is4() {
		return addr, true
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return addr, err == nil && addr.Zone() == "" && !addr.Is4In6()
}
