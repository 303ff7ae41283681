package zone

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

func object(text string) store.ObjectName {
	namespace, name, _ := strings.Cut(text, "/")
	return store.ObjectName{Namespace: namespace, Name: name}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func ready(addr, hostname string) store.Endpoint {
	return store.Endpoint{Addr: netip.MustParseAddr(addr), Hostname: hostname, Ready: true}
}

// world is what the tests' cluster consists of.
func world() (store.ServiceChanges, store.PolicyChanges) {
	c := store.ServiceChanges{Reset: true, Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/112")}}
	for _, s := range []*store.Service{
		{Name: object("default/web"), Type: store.ServiceClusterIP, ClusterIPs: addrs("10.96.0.7", "fd00:96::7"),
			Ports: []store.ServicePort{{Name: "http", Protocol: store.TCP, Port: 80}, {Protocol: store.UDP, Port: 81}}},
		{Name: object("default/db"), Type: store.ServiceClusterIP, Headless: true},
		{Name: object("default/none"), Type: store.ServiceClusterIP, Headless: true},
		{Name: object("default/all"), Type: store.ServiceClusterIP, Headless: true, PublishNotReady: true},
		{Name: object("shop/ext"), Type: store.ServiceExternalName, ExternalName: "www.example.com"},
		{Name: object("shop/inner"), Type: store.ServiceExternalName, ExternalName: "web.default.svc.cluster.local."},
		{Name: object("shop/number"), Type: store.ServiceExternalName, ExternalName: "192.0.2.1"},
	} {
		c.Services[s.Name] = s
	}
	ports := []store.EndpointPort{{Name: "sql", Protocol: store.TCP, Port: 5432}}
	for _, s := range []*store.EndpointSlice{
		{Name: object("default/web-1"), Service: "web", Endpoints: []store.Endpoint{ready("10.244.1.9", "")}},
		{Name: object("default/db-1"), Service: "db", Ports: ports, Endpoints: []store.Endpoint{
			ready("10.244.1.5", "db-0"), ready("10.244.2.5", ""), {Addr: netip.MustParseAddr("10.244.3.5")}}},
		{Name: object("default/db-2"), Service: "db", IPv6: true, Ports: ports, Endpoints: []store.Endpoint{ready("fd00:10::5", "db-0"), ready("fd00:10::", "")}},
		{Name: object("default/none-1"), Service: "none", Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("10.244.3.6")}}},
		{Name: object("default/all-1"), Service: "all", Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("10.244.3.6")}}},
	} {
		c.Slices[s.Name] = s
	}
	pods := store.PolicyChanges{Reset: true, Pods: map[store.PodKey]*store.Pod{}}
	for _, p := range []*store.Pod{
		{Name: object("default/db-0"), Node: "node1", Addrs: addrs("10.244.1.5", "fd00:10::5")},
		{Name: object("tools/shell"), Node: "node1", Addrs: addrs("10.244.1.6")},
	} {
		pods.Pods[p.Key()] = p
	}
	return c, pods
}

func newZone(t testing.TB) *Zone {
	t.Helper()
	z, err := New("Cluster.Local")
	if err != nil {
		t.Fatal(err)
	}
	z.SetServers(addrs("10.244.1.1"))
	z.SetPodNetworks([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10::/48")})
	return z
}

func loaded(t testing.TB) *Zone {
	t.Helper()
	z := newZone(t)
	services, pods := world()
	z.Apply(services)
	z.ApplyPods(pods)
	return z
}

// ask returns an answer as text: code, then the records without owner, if it is the name asked for, TTL and class.
func ask(z *Zone, name, qtype string) string {
	a, ok := z.Answer(name, dns.StringToType[qtype])
	if !ok {
		return "not ours"
	}
	out := []string{dns.RcodeToString[a.Rcode]}
	text := func(rr dns.RR) string {
		_, data, _ := strings.Cut(rr.String(), "\tIN\t")
		data = strings.ReplaceAll(data, "\t", " ")
		if rr.Header().Name != name {
			data = rr.Header().Name + " " + data
		}
		return data
	}
	for _, rr := range a.Records {
		out = append(out, text(rr))
	}
	for _, rr := range a.Authority {
		out = append(out, "SOA of "+rr.Header().Name)
	}
	for _, rr := range a.Extra {
		out = append(out, "+ "+text(rr))
	}
	if a.Target != "" {
		out = append(out, "-> "+a.Target)
	}
	return strings.Join(out, "; ")
}

const (
	noName = "NXDOMAIN; SOA of cluster.local."
	noData = "NOERROR; SOA of cluster.local."
)

func TestAnswer(t *testing.T) {
	tests := []struct{ name, qtype, want string }{
		{"web.default.svc.cluster.local.", "A", "NOERROR; A 10.96.0.7"},
		{"web.default.svc.cluster.local.", "AAAA", "NOERROR; AAAA fd00:96::7"},
		{"web.default.svc.cluster.local.", "MX", noData},
		{"web.default.svc.cluster.local.", "SRV", noData},
		{"web.default.svc.cluster.local.", "ANY", `NOERROR; HINFO "RFC8482" ""`},
		{"wEb.DEFAULT.svc.Cluster.LOCAL.", "A", "NOERROR; A 10.96.0.7"},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", "NOERROR; SRV 0 100 80 web.default.svc.cluster.local.; " +
			"+ web.default.svc.cluster.local. A 10.96.0.7; + web.default.svc.cluster.local. AAAA fd00:96::7"},
		{"_HTTP._TCP.web.default.svc.cluster.local.", "A", noData},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", noName},
		{"_._udp.web.default.svc.cluster.local.", "SRV", noName},
		{"http._tcp.web.default.svc.cluster.local.", "SRV", noName},
		{"_tcp.web.default.svc.cluster.local.", "SRV", noData},
		{"_udp.web.default.svc.cluster.local.", "SRV", noName}, // its port there has no name
		{"_sctp.web.default.svc.cluster.local.", "SRV", noName},
		{"10-244-1-9.web.default.svc.cluster.local.", "A", "NOERROR; A 10.244.1.9"},
		{"x.10-244-1-9.web.default.svc.cluster.local.", "A", noName},
		{"a.b.c.web.default.svc.cluster.local.", "A", noName},
		{`web\.default.svc.cluster.local.`, "A", noName},
		{`x\.web.default.svc.cluster.local.`, "A", noName},
		{"shop.default.svc.cluster.local.", "A", noName},
		{"web.shop.svc.cluster.local.", "A", noName},
		{"shop.svc.cluster.local.", "A", noData},
		{"tools.svc.cluster.local.", "A", noName}, // it has pods alone
		{"svc.cluster.local.", "A", noData},
		{"cluster.local.", "A", noData},
		{"cluster.local.", "SOA", "NOERROR; SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
		{"cluster.local.", "NS", "NOERROR; NS ns.dns.cluster.local.; + ns.dns.cluster.local. A 10.244.1.1"},
		{"ns.dns.cluster.local.", "A", "NOERROR; A 10.244.1.1"},
		{"dns.cluster.local.", "A", noData},
		{"dns-version.cluster.local.", "TXT", `NOERROR; TXT "1.1.0"`},
		{"other.cluster.local.", "A", noName},
		{"acluster.local.", "A", "not ours"},
		{"local.", "A", "not ours"},
		{".", "NS", "not ours"},

		{"db.default.svc.cluster.local.", "A", "NOERROR; A 10.244.1.5; A 10.244.2.5"},
		{"db.default.svc.cluster.local.", "AAAA", "NOERROR; AAAA fd00:10::; AAAA fd00:10::5"},
		{"db.default.svc.cluster.local.", "TXT", noData},
		{"db-0.db.default.svc.cluster.local.", "A", "NOERROR; A 10.244.1.5"},
		{"DB-0.db.default.svc.cluster.local.", "AAAA", "NOERROR; AAAA fd00:10::5"},
		{"10-244-2-5.db.default.svc.cluster.local.", "A", "NOERROR; A 10.244.2.5"},
		{"10-244-2-5.db.default.svc.cluster.local.", "AAAA", noData},
		{"10-244-3-5.db.default.svc.cluster.local.", "A", noName}, // not ready
		{"fd00-10--0.db.default.svc.cluster.local.", "AAAA", "NOERROR; AAAA fd00:10::"},
		{"_sql._tcp.db.default.svc.cluster.local.", "SRV", "NOERROR; SRV 0 25 5432 10-244-2-5.db.default.svc.cluster.local.; " +
			"SRV 0 25 5432 db-0.db.default.svc.cluster.local.; SRV 0 25 5432 fd00-10--0.db.default.svc.cluster.local.; " +
			"+ 10-244-2-5.db.default.svc.cluster.local. A 10.244.2.5; + db-0.db.default.svc.cluster.local. A 10.244.1.5; " +
			"+ db-0.db.default.svc.cluster.local. AAAA fd00:10::5; + fd00-10--0.db.default.svc.cluster.local. AAAA fd00:10::"},
		{"_tcp.db.default.svc.cluster.local.", "SRV", noData},
		{"none.default.svc.cluster.local.", "A", noName},
		{"all.default.svc.cluster.local.", "A", "NOERROR; A 10.244.3.6"},

		{"ext.shop.svc.cluster.local.", "A", "NOERROR; CNAME www.example.com.; -> www.example.com."},
		{"ext.shop.svc.cluster.local.", "CNAME", "NOERROR; CNAME www.example.com."},
		{"inner.shop.svc.cluster.local.", "AAAA", "NOERROR; CNAME web.default.svc.cluster.local.; -> web.default.svc.cluster.local."},
		{"number.shop.svc.cluster.local.", "A", noData},
		{"x.ext.shop.svc.cluster.local.", "A", noName},

		{"10-244-1-5.default.pod.cluster.local.", "A", "NOERROR; A 10.244.1.5"},
		{"10-244-1-5.default.pod.cluster.local.", "AAAA", noData},
		{"fd00-10--5.default.pod.cluster.local.", "AAAA", "NOERROR; AAAA fd00:10::5"},
		{"10-244-1-5.tools.pod.cluster.local.", "A", noName},
		{"10-244-1-7.default.pod.cluster.local.", "A", noName},
		{"10-244-1.default.pod.cluster.local.", "A", noName},
		{"tools.pod.cluster.local.", "A", noData},
		{"shop.pod.cluster.local.", "A", noName},
		{"pod.cluster.local.", "A", noData},
		{"a.b.c.pod.cluster.local.", "A", noName},

		{"7.0.96.10.in-addr.arpa.", "PTR", "NOERROR; PTR web.default.svc.cluster.local."},
		{"7.0.96.10.IN-ADDR.arpa.", "A", "NOERROR; SOA of 96.10.in-addr.arpa."},
		{"8.0.96.10.in-addr.arpa.", "PTR", "NXDOMAIN; SOA of 96.10.in-addr.arpa."},
		{"0.96.10.in-addr.arpa.", "PTR", "NOERROR; SOA of 96.10.in-addr.arpa."},
		{"97.10.in-addr.arpa.", "SOA", "NOERROR; SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
		{"10.in-addr.arpa.", "PTR", "not ours"},
		{"007.0.96.10.in-addr.arpa.", "PTR", "not ours"},
		{"5.1.244.10.in-addr.arpa.", "PTR", "NOERROR; PTR db-0.db.default.svc.cluster.local."},
		{"9.1.244.10.in-addr.arpa.", "PTR", "NXDOMAIN; SOA of 244.10.in-addr.arpa."}, // of a Service with a ClusterIP
		{"1.2.0.192.in-addr.arpa.", "PTR", "not ours"},
		{"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.", "PTR", "NOERROR; PTR web.default.svc.cluster.local."},
	}
	z := loaded(t)
	for _, test := range tests {
		t.Run(test.name+" "+test.qtype, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ask(z, test.name, test.qtype)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nothing is denied before the Zone knows what there is.
func TestAnswerBeforeLoaded(t *testing.T) {
	z := newZone(t)
	services, pods := world()
	for _, step := range []func(){func() {}, func() { z.Apply(services) }} {
		step()
		if have := ask(z, "web.default.svc.cluster.local.", "A"); have != "SERVFAIL" {
			t.Errorf("have %s", have)
		}
		if have := ask(z, "www.example.com.", "A"); have != "not ours" {
			t.Errorf("have %s", have)
		}
	}
	z.ApplyPods(pods)
	if have := ask(z, "web.default.svc.cluster.local.", "A"); have != "NOERROR; A 10.96.0.7" {
		t.Errorf("have %s", have)
	}
}

func TestCheckDomain(t *testing.T) {
	for domain, good := range map[string]bool{"cluster.local": true, "Cluster.Local.": true, "k8s": true, "": false, ".": false, "a..b": false, "-a": false,
		"a-": false, "a b": false, `a\.b`: false, strings.Repeat("a", 64): false, strings.Repeat("abc.", 30): false} {
		if _, err := New(domain); (err == nil) != good {
			t.Errorf("%q: %v", domain, err)
		}
	}
}

// dump returns everything that answers are made from.
func dump(z *Zone) []string {
	var out []string
	z.services.m.Range(func(k, v any) bool {
		s := v.(*service)
		out = append(out, fmt.Sprintf("service %v %s %s %v %v %v %v %v %v", k, s.name, s.external, s.headless, s.clusterIPs, s.ports, s.endpoints, s.addrs, s.links))
		return true
	})
	for what, m := range map[string]*sync.Map{"namespace": &z.serviceNamespaces.m, "reverse": &z.reverse.m, "pod": &z.pods.m, "pods of": &z.podNamespaces.m} {
		m.Range(func(k, v any) bool {
			out = append(out, fmt.Sprint(what, " ", k, " ", v))
			return true
		})
	}
	slices.Sort(out)
	return out
}

// The order of changes, and what was there before, do not matter.
func TestPermutedChanges(t *testing.T) {
	want := dump(loaded(t))
	services, pods := world()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		z := newZone(t)
		z.Apply(store.ServiceChanges{Reset: true, Networks: services.Networks, Services: map[store.ObjectName]*store.Service{
			object("default/stale"): {Name: object("default/stale"), ClusterIPs: addrs("10.96.0.7")},
			object("old/db"):        {Name: object("old/db"), Headless: true},
		}, Slices: map[store.ObjectName]*store.EndpointSlice{
			object("default/db-1"): {Name: object("default/db-1"), Service: "none", Endpoints: []store.Endpoint{ready("10.244.1.5", "db-0")}},
			object("old/db-1"):     {Name: object("old/db-1"), Service: "db", Endpoints: []store.Endpoint{ready("10.244.1.5", "")}},
		}})
		stale := &store.Pod{Name: object("old/db"), Node: "node2", Addrs: addrs("10.244.1.5")}
		z.ApplyPods(store.PolicyChanges{Reset: true, Pods: map[store.PodKey]*store.Pod{stale.Key(): stale}})

		var steps []func()
		for name, s := range services.Services {
			steps = append(steps, func() { z.Apply(store.ServiceChanges{Services: map[store.ObjectName]*store.Service{name: s}}) })
		}
		for name, s := range services.Slices {
			steps = append(steps, func() { z.Apply(store.ServiceChanges{Slices: map[store.ObjectName]*store.EndpointSlice{name: s}}) })
		}
		for key, p := range pods.Pods {
			steps = append(steps, func() { z.ApplyPods(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{key: p}}) })
		}
		gone := store.ServiceChanges{Services: map[store.ObjectName]*store.Service{object("default/stale"): nil, object("old/db"): nil},
			Slices: map[store.ObjectName]*store.EndpointSlice{object("old/db-1"): nil}}
		byReset := seed%2 == 0
		if !byReset {
			steps = append(steps, func() { z.Apply(gone) }, func() { z.ApplyPods(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{stale.Key(): nil}}) })
		}
		steps = append(steps, steps[0], steps[1]) // told twice
		random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for _, step := range steps {
			step()
		}
		if byReset {
			z.Apply(services)
			z.ApplyPods(pods)
		}
		if diff := cmp.Diff(want, dump(z)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

// Everything that was told and taken back leaves nothing.
func TestNothingIsLeft(t *testing.T) {
	z := loaded(t)
	services, pods := world()
	for name := range services.Services {
		services.Services[name] = nil
	}
	for name := range services.Slices {
		services.Slices[name] = nil
	}
	for key := range pods.Pods {
		pods.Pods[key] = nil
	}
	services.Reset, pods.Reset = false, false
	z.Apply(services)
	z.ApplyPods(pods)
	if left := dump(z); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	f := &z.facts
	if n := len(f.services) + len(f.slices) + len(f.of) + len(f.pods) + len(f.serviceNamespaces) + len(f.podNamespaces) + len(f.podAddrs); n > 0 {
		t.Errorf("%d facts are left: %+v", n, f)
	}
}

// A pod that is replaced by one with its address, in either order of the records, is there all the time.
func TestReplacedPod(t *testing.T) {
	z := loaded(t)
	next := &store.Pod{Name: object("tools/shell-2"), Node: "node1", Addrs: addrs("10.244.1.6")}
	old := store.PodKey{Node: "node1", Name: object("tools/shell")}
	z.ApplyPods(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{next.Key(): next}})
	z.ApplyPods(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{old: nil}})
	if have := ask(z, "10-244-1-6.tools.pod.cluster.local.", "A"); have != "NOERROR; A 10.244.1.6" {
		t.Errorf("have %s", have)
	}
}

// Answers may be asked for while changes come in; run with -race.
func TestConcurrentAnswers(t *testing.T) {
	z := loaded(t)
	services, _ := world()
	services.Reset = false
	gone := store.ServiceChanges{Services: map[store.ObjectName]*store.Service{object("default/web"): nil}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if have := ask(z, "db.default.svc.cluster.local.", "A"); have != "NOERROR; A 10.244.1.5; A 10.244.2.5" {
					t.Errorf("have %s", have)
				}
				if have := ask(z, "web.default.svc.cluster.local.", "A"); have != "NOERROR; A 10.96.0.7" && have != noName {
					t.Errorf("have %s", have)
				}
			}
		})
	}
	for range 200 {
		z.Apply(gone)
		z.Apply(services)
	}
	wg.Wait()
}

// What is answered can be put into a message, bears the name asked for, and is of the type asked for.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local.", "_sql._tcp.db.default.svc.cluster.local.", "10-244-1-5.default.pod.cluster.local.",
		"5.1.244.10.in-addr.arpa.", "7.0.0.0.ip6.arpa.", "ext.shop.svc.cluster.local.", `\000.svc.cluster.local.`, ".."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeSOA} {
			f.Add(name, qtype)
		}
	}
	z := loaded(f)
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		a, ok := z.Answer(name, qtype)
		if !ok {
			return
		}
		if (len(a.Records) == 0) != (len(a.Authority) == 1) {
			t.Errorf("%d records, %d in the authority section", len(a.Records), len(a.Authority))
		}
		if _, good := dns.IsDomainName(name); !good {
			return // no message has such a name
		}
		for _, rr := range a.Records {
			if h := rr.Header(); h.Name != name || qtype != dns.TypeANY && h.Rrtype != qtype && h.Rrtype != dns.TypeCNAME {
				t.Errorf("record %s", rr)
			}
		}
		m := &dns.Msg{Answer: a.Records, Ns: a.Authority, Extra: a.Extra}
		if len(a.Records) > 0 {
			if _, err := m.Pack(); err != nil && dns.IsFqdn(name) {
				t.Error(err)
			}
		}
	})
}

// What is read of a reverse name is written as that name.
func FuzzParseReverse(f *testing.F) {
	f.Add("7.0.96.10.in-addr.arpa.")
	f.Add("0.96.10.in-addr.arpa.")
	f.Add("6.9.0.0.0.0.d.f.ip6.arpa.")
	f.Fuzz(func(t *testing.T, name string) {
		if p, ok := parseReverse(name); ok && reverseName(p) != name {
			t.Errorf("%q: %s, %q", name, p, reverseName(p))
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	z := newZone(b)
	services, pods := world()
	for i := range 10000 {
		s := &store.Service{Name: object(fmt.Sprintf("ns%d/service-%d", i%100, i)), ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}}
		services.Services[s.Name] = s
	}
	z.Apply(services)
	z.ApplyPods(pods)
	names := slices.Collect(maps.Keys(services.Services))
	for i := 0; b.Loop(); i++ {
		n := names[i%len(names)]
		z.Answer(n.Name+"."+n.Namespace+".svc.cluster.local.", dns.TypeA)
	}
}
