package endpoints

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/store"
)

var compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

func name(n string) store.ObjectName { return store.ObjectName{Namespace: "a", Name: n} }

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func pod(n, node string, labels map[string]string, addresses ...string) *store.Pod {
	return &store.Pod{Name: name(n), Node: node, Labels: labels, Addrs: addrs(addresses...), Ready: true}
}

func service(n string, change ...func(*store.Service)) *store.Service {
	s := &store.Service{Name: name(n), Type: store.ServiceClusterIP, ClusterIPs: addrs("10.96.0.1"), Selector: map[string]string{"app": "web"},
		Ports: []store.ServicePort{{Protocol: store.TCP, Port: 80, TargetPort: "8080"}}}
	for _, c := range change {
		c(s)
	}
	return s
}

func TestSlices(t *testing.T) {
	web := map[string]string{"app": "web", "tier": "x"}
	notReady := pod("c", "n1", web, "10.0.0.9")
	notReady.Ready = false
	named := func(n, addr string, port uint16) *store.Pod {
		p := pod(n, "n1", web, addr)
		p.Ports = []store.PodPort{{Name: "http", Protocol: store.UDP, Port: 1}, {Name: "http", Protocol: store.TCP, Port: port}}
		return p
	}
	ready := func(addr, node string) store.Endpoint {
		return store.Endpoint{Addr: netip.MustParseAddr(addr), Ready: true, Serving: true, Node: node}
	}
	port := func(n uint16) []store.EndpointPort { return []store.EndpointPort{{Protocol: store.TCP, Port: n}} }
	tests := []struct {
		name    string
		service *store.Service
		pods    []*store.Pod
		want    map[string]store.EndpointSlice
	}{
		{"by node", service("s"), []*store.Pod{pod("b", "n1", web, "10.0.0.2"), pod("a", "n1", web, "10.0.0.1"), pod("a", "n2", web, "10.0.1.1")},
			map[string]store.EndpointSlice{
				"s:n1:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{ready("10.0.0.1", "n1"), ready("10.0.0.2", "n1")}},
				"s:n2:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{ready("10.0.1.1", "n2")}}}},
		{"others", service("s"), []*store.Pod{pod("a", "n1", map[string]string{"app": "db"}, "10.0.0.1"), pod("b", "n1", nil, "10.0.0.2"),
			{Name: store.ObjectName{Namespace: "other", Name: "c"}, Node: "n1", Labels: web, Addrs: addrs("10.0.0.3")}}, nil},
		{"all of the selector", service("s", func(s *store.Service) { s.Selector = map[string]string{"app": "web", "tier": "y"} }),
			[]*store.Pod{pod("a", "n1", web, "10.0.0.1")}, nil},
		{"no selector", service("s", func(s *store.Service) { s.Selector = nil }), []*store.Pod{pod("a", "n1", web, "10.0.0.1")}, nil},
		{"external name", service("s", func(s *store.Service) { s.Type = store.ServiceExternalName }), []*store.Pod{pod("a", "n1", web, "10.0.0.1")}, nil},
		{"not ready", service("s"), []*store.Pod{notReady}, map[string]store.EndpointSlice{
			"s:n1:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("10.0.0.9"), Node: "n1"}}}}},
		{"not ready, but published", service("s", func(s *store.Service) { s.PublishNotReady = true }), []*store.Pod{notReady}, map[string]store.EndpointSlice{
			"s:n1:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("10.0.0.9"), Node: "n1", Ready: true}}}}},
		{"the Service's families", service("s", func(s *store.Service) { s.ClusterIPs = addrs("fd00::1") }), []*store.Pod{pod("a", "n1", web, "10.0.0.1", "fd00:1::1")},
			map[string]store.EndpointSlice{"s:n1:IPv6": {IPv6: true, Ports: port(8080), Endpoints: []store.Endpoint{ready("fd00:1::1", "n1")}}}},
		{"headless: both", service("s", func(s *store.Service) { s.ClusterIPs, s.Headless = nil, true }), []*store.Pod{pod("a", "n1", web, "10.0.0.1", "fd00:1::1")},
			map[string]store.EndpointSlice{
				"s:n1:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{ready("10.0.0.1", "n1")}},
				"s:n1:IPv6": {IPv6: true, Ports: port(8080), Endpoints: []store.Endpoint{ready("fd00:1::1", "n1")}}}},
		{"one address twice", service("s"), []*store.Pod{pod("a", "n1", web, "10.0.0.9"), notReady}, map[string]store.EndpointSlice{
			"s:n1:IPv4": {Ports: port(8080), Endpoints: []store.Endpoint{ready("10.0.0.9", "n1")}}}},
		{"named target ports", service("s", func(s *store.Service) { s.Ports[0].TargetPort = "http" }),
			[]*store.Pod{named("a", "10.0.0.1", 81), named("b", "10.0.0.2", 82), named("c", "10.0.0.3", 81), pod("d", "n1", web, "10.0.0.4")},
			map[string]store.EndpointSlice{
				"s:n1:IPv4:81": {Ports: port(81), Endpoints: []store.Endpoint{ready("10.0.0.1", "n1"), ready("10.0.0.3", "n1")}},
				"s:n1:IPv4:82": {Ports: port(82), Endpoints: []store.Endpoint{ready("10.0.0.2", "n1")}},
				"s:n1:IPv4:0":  {Endpoints: []store.Endpoint{ready("10.0.0.4", "n1")}}}},
	}
	for _, test := range tests {
		want := map[store.ObjectName]*store.EndpointSlice{}
		for n, s := range test.want {
			s.Name, s.Service = name(n), "s"
			want[s.Name] = &s
		}
		for _, order := range []string{"service first", "pods first"} {
			t.Run(test.name+", "+order, func(t *testing.T) {
				b := New()
				if order == "service first" {
					b.SetService(test.service.Name, test.service)
				}
				for _, p := range test.pods {
					b.SetPod(p.Key(), p)
				}
				if order == "pods first" {
					b.SetService(test.service.Name, test.service)
				}
				if diff := cmp.Diff(want, b.Take(), compare); diff != "" {
					t.Error(diff)
				}
				if again := b.Take(); len(again) != 0 {
					t.Errorf("nothing changed, but %v", again)
				}
				for _, p := range test.pods {
					b.SetPod(p.Key(), nil)
				}
				gone := b.Take()
				for n := range want {
					if s, told := gone[n]; !told || s != nil {
						t.Errorf("%s is not gone", n)
					}
				}
				b.SetService(test.service.Name, nil)
				if b.Take(); len(b.members)+len(b.nodes)+len(b.slices)+len(b.byAnchor)+len(b.byLabel)+len(b.services) > 0 {
					t.Errorf("something is left: %+v", b)
				}
			})
		}
	}
}

// A pod's change touches the slices of its node alone; what changes nothing tells nothing.
func TestIncremental(t *testing.T) {
	b := New()
	web := map[string]string{"app": "web"}
	for i := range 1000 {
		s := service(fmt.Sprintf("s%d", i))
		s.Selector = map[string]string{"app": "web", "n": fmt.Sprint(i)}
		b.SetService(s.Name, s)
	}
	s := service("s")
	b.SetService(s.Name, s)
	for i := range 100 {
		p := pod(fmt.Sprint("p", i), fmt.Sprint("n", i), web, fmt.Sprintf("10.0.%d.1", i))
		b.SetPod(p.Key(), p)
	}
	if n := len(b.Take()); n != 100 {
		t.Fatalf("%d slices", n)
	}
	p := pod("p7", "n7", web, "10.0.7.2")
	b.SetPod(p.Key(), p)
	if c := b.Take(); len(c) != 1 || c[name("s:n7:IPv4")].Endpoints[0].Addr != p.Addrs[0] {
		t.Errorf("have %v", c)
	}
	same := *p
	b.SetPod(p.Key(), &same)
	next := service("s", func(s *store.Service) { s.Ports[0].NodePort = 30000 })
	b.SetService(next.Name, next)
	other := pod("p7", "n7", map[string]string{"app": "web", "x": "y"}, "10.0.7.2")
	b.SetPod(other.Key(), other)
	if c := b.Take(); len(c) != 0 {
		t.Errorf("nothing changed, but %v", c)
	}
}

// Whatever came before, the slices are those of a Builder that learns of the end alone.
func TestRandomHistory(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b, have := New(), map[store.ObjectName]*store.EndpointSlice{}
		services, pods := map[store.ObjectName]*store.Service{}, map[store.PodKey]*store.Pod{}
		for range 200 {
			if n := name(fmt.Sprint("s", rnd.IntN(4))); rnd.IntN(3) == 0 {
				var s *store.Service
				if rnd.IntN(4) > 0 {
					s = service(n.Name, func(s *store.Service) {
						s.Selector = map[string]string{"app": fmt.Sprint(rnd.IntN(2)), "b": fmt.Sprint(rnd.IntN(2))}
						if rnd.IntN(2) == 0 {
							delete(s.Selector, "b")
						}
						s.Ports[0].TargetPort = []string{"80", "http"}[rnd.IntN(2)]
					})
				}
				b.SetService(n, s)
				services[n] = s
			} else {
				p := pod(fmt.Sprint("p", rnd.IntN(6)), fmt.Sprint("n", rnd.IntN(3)),
					map[string]string{"app": fmt.Sprint(rnd.IntN(2)), "b": fmt.Sprint(rnd.IntN(2))}, fmt.Sprintf("10.0.0.%d", 1+rnd.IntN(9)))
				p.Ports = []store.PodPort{{Name: "http", Protocol: store.TCP, Port: uint16(1 + rnd.IntN(2))}}
				key := p.Key()
				if rnd.IntN(3) == 0 {
					p = nil
				}
				b.SetPod(key, p)
				pods[key] = p
			}
			if rnd.IntN(3) == 0 {
				maps.Copy(have, b.Take())
			}
		}
		maps.Copy(have, b.Take())
		maps.DeleteFunc(have, func(_ store.ObjectName, s *store.EndpointSlice) bool { return s == nil })
		fresh := New()
		for n, s := range services {
			fresh.SetService(n, s)
		}
		for k, p := range pods {
			fresh.SetPod(k, p)
		}
		if diff := cmp.Diff(fresh.Take(), have, compare); diff != "" {
			t.Fatal(diff)
		}
	}
}

// BenchmarkPodAmong10000 is what one pod that comes and goes costs among 10,000 Services of 5 pods.
func BenchmarkPodAmong10000(b *testing.B) {
	builder := New()
	for i := range 10000 {
		s := service(fmt.Sprint("s", i), func(s *store.Service) { s.Selector = map[string]string{"app": fmt.Sprint(i)} })
		builder.SetService(s.Name, s)
		for j := range 5 {
			p := pod(fmt.Sprint("p", i, "-", j), fmt.Sprint("n", j), map[string]string{"app": fmt.Sprint(i)}, fmt.Sprintf("10.%d.%d.%d", j, i>>8, i&255))
			builder.SetPod(p.Key(), p)
		}
	}
	builder.Take()
	p := pod("x", "n1", map[string]string{"app": "77"}, "10.9.9.9")
	for b.Loop() {
		builder.SetPod(p.Key(), p)
		builder.Take()
		builder.SetPod(p.Key(), nil)
		builder.Take()
	}
}
