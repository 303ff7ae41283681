package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

// TTL is for how many seconds an answer may be remembered, positive or negative.
const TTL = 5

// Zone answers for a cluster's domain, and for the addresses of its Services and pods. Answer may be called from any number of goroutines, at any
// time.
type Zone struct {
	domain string // lower-case, with the dot at its end

	loaded, podsLoaded atomic.Bool
	serial             atomic.Uint32
	around             atomic.Pointer[surroundings]

	services          table[store.ObjectName, *service]
	serviceNamespaces table[string, struct{}]
	reverse           table[netip.Addr, []string] // sorted
	pods              table[podAddr, struct{}]
	podNamespaces     table[string, struct{}]

	mu    sync.Mutex // of what changes are worked out with
	facts facts
}

// surroundings are what the Zone is told of networks. It is never changed after it was made.
type surroundings struct {
	servers  []netip.Addr   // of this zone
	services []netip.Prefix // that ClusterIPs are from
	pods     []netip.Prefix
}

// podAddr is what a pod is found by.
type podAddr struct {
	namespace string
	addr      netip.Addr
}

// table is a map that is read without a lock. Its values are never changed.
type table[K comparable, V any] struct{ m sync.Map }

func (t *table[K, V]) get(key K) (value V, ok bool) {
	v, ok := t.m.Load(key)
	if ok {
		value = v.(V)
	}
	return value, ok
}

func (t *table[K, V]) has(key K) bool {
	_, ok := t.m.Load(key)
	return ok
}

func (t *table[K, V]) put(key K, value V) { t.m.Store(key, value) }
func (t *table[K, V]) remove(key K)       { t.m.Delete(key) }

// New returns the zone of a domain such as cluster.local. Until both Apply and ApplyPods were told everything it does not know which names there
// are, and says so (dns.RcodeServerFailure).
func New(domain string) (*Zone, error) {
	lower := strings.ToLower(strings.TrimSuffix(domain, ".")) + "."
	if err := CheckDomain(domain); err != nil {
		return nil, err
	}
	z := &Zone{domain: lower, facts: newFacts()}
	z.around.Store(&surroundings{})
	return z, nil
}

// maxDomain leaves room for _PORT._PROTO.SERVICE.NAMESPACE.svc before the domain, each of 63 bytes at most, in a name's 255 (RFC 1035, 2.3.4).
const maxDomain = 100

// CheckDomain returns what is wrong with a domain.
func CheckDomain(domain string) error {
	domain = strings.TrimSuffix(domain, ".")
	if len(domain) > maxDomain {
		return fmt.Errorf("domain %.40q...: %d bytes are more than the %d that are allowed", domain, len(domain), maxDomain)
	}
	for label := range strings.SplitSeq(strings.ToLower(domain), ".") {
		bad := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, bad) || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("domain %q: want labels of letters, digits and hyphens, divided by dots, such as cluster.local", domain)
		}
	}
	return nil
}

// Domain returns the zone's name, with the dot at its end.
func (z *Zone) Domain() string { return z.domain }

// Loaded reports whether the Zone knows which names there are.
func (z *Zone) Loaded() bool { return z.loaded.Load() && z.podsLoaded.Load() }

// SetServers says at which addresses this zone is answered: those of its name server's name, ns.dns.DOMAIN.
func (z *Zone) SetServers(servers []netip.Addr) {
	z.surround(func(s *surroundings) { s.servers = slices.Clone(servers) })
}

// SetPodNetworks says which addresses are pods'. Of an address in there, or in the Services' networks, the Zone says that it has no name, where it
// has none; of others it says nothing.
func (z *Zone) SetPodNetworks(pods []netip.Prefix) {
	z.surround(func(s *surroundings) { s.pods = slices.Clone(pods) })
}

func (z *Zone) surround(change func(*surroundings)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	next := *z.around.Load()
	change(&next)
	z.around.Store(&next)
}

// Answer is what a question is answered with.
type Answer struct {
	Rcode     int      // dns.RcodeSuccess, dns.RcodeNameError or dns.RcodeServerFailure
	Records   []dns.RR // of the name and type that were asked for, or a CNAME
	Authority []dns.RR // SOA, when there are no records
	Extra     []dns.RR // addresses of what Records name

	// Target is what a CNAME in Records stands for, with the dot at its end: the records of the type asked for are still to be found there. Empty: the
	// answer is complete.
	Target string
}

// Answer answers a question of class IN. Records bear the name as it was asked for, in its capitals. It reports false for a name that is none of the
// Zone's. What it returns belongs to the caller.
func (z *Zone) Answer(name string, qtype uint16) (Answer, bool) {
	q := question{z: z, name: name, qtype: qtype, apex: z.domain}
	lower := strings.ToLower(name)
	var find func() bool
	if lower == z.domain {
		find = q.ofApex
	} else if rest, ok := strings.CutSuffix(lower, "."+z.domain); ok {
		find = func() bool { return q.below(strings.Split(rest, ".")) }
	} else if apex, ok := z.reverseApex(lower); ok {
		q.apex = apex
		find = func() bool { return q.ofAddress(lower) }
	} else {
		return Answer{}, false
	}
	if !z.Loaded() {
		return Answer{Rcode: dns.RcodeServerFailure}, true
	}
	exists := find()
	if exists && qtype == dns.TypeANY { // RFC 8482
		q.out = Answer{Records: []dns.RR{&dns.HINFO{Hdr: q.header(dns.TypeHINFO), Cpu: "RFC8482"}}}
	}
	if len(q.out.Records) == 0 {
		q.out.Authority = []dns.RR{z.soa(q.apex)}
		if !exists {
			q.out.Rcode = dns.RcodeNameError
		}
	}
	return q.out, true
}

func (z *Zone) soa(apex string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: TTL},
		Ns:  "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain, Serial: z.serial.Load(),
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: TTL,
	}
}
